// Package state is what the probe program prints: everything that a process
// starts with and can see of itself, as JSON.
package state

import (
	"encoding/json"
	"fmt"
)

// A State is one process's whole state at its start.
type State struct {
	Argv       []string          `json:"argv"`
	Env        []string          `json:"env"`
	Cwd        string            `json:"cwd"`
	Files      []File            `json:"files"`
	IDs        IDs               `json:"ids"`
	Caps       Caps              `json:"caps"`
	Limits     map[string]Limit  `json:"limits"` // by name, such as "NOFILE"
	Signals    Signals           `json:"signals"`
	Session    Session           `json:"session"`
	Sched      Sched             `json:"sched"`
	Security   Security          `json:"security"`
	Namespaces map[string]string `json:"namespaces"` // "net" to "net:[4026531840]"
	View       View              `json:"view"`
	Mounts     []Mount           `json:"mounts"`
	Dev        []Node            `json:"dev"`
}

// Parse reads what the probe printed.
func Parse(text []byte) (*State, error) {
	s := &State{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("cannot parse the probe's output %.200q: %w", text, err)
	}
	return s, nil
}

// Getenv returns a variable's value and how often it is set.
func (s *State) Getenv(name string) (value string, times int) {
	for _, kv := range s.Env {
		if len(kv) > len(name) && kv[:len(name)] == name && kv[len(name)] == '=' {
			value = kv[len(name)+1:]
			times++
		}
	}
	return value, times
}

// Mount returns the topmost mount on target, or nil.
func (s *State) Mount(target string) *Mount {
	for i := len(s.Mounts) - 1; i >= 0; i-- {
		if s.Mounts[i].Target == target {
			return &s.Mounts[i]
		}
	}
	return nil
}

// A File is one open descriptor.
type File struct {
	FD          int    `json:"fd"`
	Target      string `json:"target"` // readlink of /proc/self/fd/N
	Kind        string `json:"kind"`   // "fifo", "char 5:1", "regular", …
	Flags       int    `json:"flags"`  // F_GETFL
	CloseOnExec bool   `json:"close_on_exec"`
}

// IDs are the process's users and groups: real, effective, saved, filesystem.
type IDs struct {
	UIDs   [4]int `json:"uids"`
	GIDs   [4]int `json:"gids"`
	Groups []int  `json:"groups"`
}

// Caps are the five capability sets, as 16 hex digits.
type Caps struct {
	Inheritable string `json:"inheritable"`
	Permitted   string `json:"permitted"`
	Effective   string `json:"effective"`
	Bounding    string `json:"bounding"`
	Ambient     string `json:"ambient"`
}

// A Limit is one resource limit.
type Limit struct {
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Signals are what the process was born with, by number. Those handled are no
// part of it: execve resets them.
type Signals struct {
	Ignored []int `json:"ignored"`
	Blocked []int `json:"blocked"`
	Pending []int `json:"pending"`
}

// Session is where the process stands in job control.
type Session struct {
	PID           int    `json:"pid"`
	PPID          int    `json:"ppid"`
	SID           int    `json:"sid"`
	PGID          int    `json:"pgid"`
	TTY           string `json:"tty"`            // controlling terminal as major:minor, "" without
	Foreground    int    `json:"foreground"`     // the terminal's foreground group, 0 without
	Keyring       string `json:"keyring"`        // keyctl describe of the session keyring
	KeyringSerial int    `json:"keyring_serial"` // its serial; Keyring names the error when 0
}

// Sched is how the process is scheduled.
type Sched struct {
	Policy     int    `json:"policy"`
	Priority   int    `json:"priority"`
	Nice       int    `json:"nice"`
	IOPrio     int    `json:"ioprio"`
	Affinity   string `json:"affinity"` // Cpus_allowed_list
	TimerSlack int    `json:"timer_slack"`
}

// Security is what restricts the process.
type Security struct {
	Seccomp     int               `json:"seccomp"` // 0 none, 2 filter
	Filters     int               `json:"filters"`
	NoNewPrivs  int               `json:"no_new_privs"`
	Securebits  int               `json:"securebits"`
	Dumpable    int               `json:"dumpable"`
	Attr        map[string]string `json:"attr"` // /proc/self/attr
	Personality int               `json:"personality"`
	DeathSignal int               `json:"death_signal"`
	Subreaper   int               `json:"subreaper"`
	THPDisable  int               `json:"thp_disable"`
}

// View is what the process sees of the world, and what the world does with it.
type View struct {
	Hostname       string   `json:"hostname"`
	Domainname     string   `json:"domainname"`
	InitComm       string   `json:"init_comm"` // /proc/1/comm
	Cgroup         []string `json:"cgroup"`    // lines of /proc/self/cgroup
	Links          []string `json:"links"`     // network interfaces
	Root           []string `json:"root"`      // names in /
	Umask          string   `json:"umask"`
	OOMScoreAdj    int      `json:"oom_score_adj"`
	CoredumpFilter string   `json:"coredump_filter"`
	UIDMap         string   `json:"uid_map"`
}

// A Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Root        string `json:"root"`
	Target      string `json:"target"`
	Options     string `json:"options"`
	Propagation string `json:"propagation"` // "shared:1 master:2", "" for private
	FSType      string `json:"fstype"`
	Source      string `json:"source"`
	SuperOpts   string `json:"super_options"`
}

// A Node is one entry below /dev.
type Node struct {
	Name string `json:"name"` // relative to /dev
	Mode string `json:"mode"` // as ls -l shows it
	Dev  string `json:"dev"`  // major:minor of a device
	Link string `json:"link"` // target of a symbolic link
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
}
