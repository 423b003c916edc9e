package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A proc is one process of the machine, as /proc tells of it.
type proc struct {
	pid, ppid int
	start     string // start time: with the pid, the process's identity
	args      []string
	state     string
}

// procs lists all processes.
func procs() []proc {
	var list []proc
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProc(pid); ok {
				list = append(list, p)
			}
		}
	}
	return list
}

func readProc(pid int) (proc, bool) {
	stat := readProcFile(pid, "stat")
	_, rest, ok := cutLast(stat, ") ") // the name before it may hold anything
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return proc{}, false
	}
	ppid, _ := strconv.Atoi(f[1])
	args := strings.Split(strings.TrimSuffix(readProcFile(pid, "cmdline"), "\x00"), "\x00")
	return proc{pid: pid, ppid: ppid, start: f[19], args: args, state: f[0]}, true
}

func readProcFile(pid int, name string) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	return string(b)
}

func cutLast(s, sep string) (before, after string, found bool) {
	at := strings.LastIndex(s, sep)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(sep):], true
}

// Children lists the living children of a process.
func Children(pid int) []int {
	var list []int
	for _, p := range procs() {
		if p.ppid == pid && p.state != "Z" {
			list = append(list, p.pid)
		}
	}
	return list
}

// Oldest is the process of these that began first: no child of another of them, and
// not the one with the lowest number, for numbers begin anew. 0 if none lives.
func Oldest(pids []int) int {
	oldest, began := 0, uint64(0)
	for _, pid := range pids {
		p, ok := readProc(pid)
		if !ok || slices.Contains(pids, p.ppid) {
			continue
		}
		if start, _ := strconv.ParseUint(p.start, 10, 64); oldest == 0 || start < began {
			oldest, began = pid, start
		}
	}
	return oldest
}

// Zombies lists the dead children of a process that nobody has reaped.
func Zombies(pid int) []int {
	var list []int
	for _, p := range procs() {
		if p.ppid == pid && p.state == "Z" {
			list = append(list, p.pid)
		}
	}
	return list
}

// Namespace returns what a process's namespace link says, such as "net:[4026531840]".
func Namespace(pid int, kind string) string {
	link, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", kind))
	return link
}

// Init returns process 1 of the pid namespace that a process lives in, or 0.
func Init(pid int) int {
	ns := Namespace(pid, "pid")
	for _, p := range procs() {
		_, rest, _ := strings.Cut(readProcFile(p.pid, "status"), "NSpid:")
		line, _, _ := strings.Cut(rest, "\n")
		f := strings.Fields(line)
		if len(f) > 0 && f[len(f)-1] == "1" && Namespace(p.pid, "pid") == ns {
			return p.pid
		}
	}
	return 0
}

// Alive says whether the process exists and is no zombie.
func Alive(pid int) bool {
	p, ok := readProc(pid)
	return ok && p.state != "Z" && p.state != "X"
}

// halted says whether all threads of a process are stopped: kill(2) with SIGSTOP
// returns before that, and until one has taken the signal others go on.
func halted(pid int) bool {
	threads := dirNames(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	return len(threads) > 0 && !slices.ContainsFunc(threads, func(id string) bool {
		_, rest, _ := cutLast(readProcFile(pid, filepath.Join("task", id, "stat")), ") ")
		return !strings.HasPrefix(rest, "T")
	})
}

// Halt stops a process and returns once it is: sooner, one of its threads might still
// do what the test sends it next.
func (i *Instance) Halt(pid int) {
	i.T.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		i.T.Fatalf("cannot stop process %d: %v", pid, err)
	}
	i.Wait("the stop of "+Describe(pid), func() bool { return halted(pid) })
}

// Describe says what a process is and does, for messages.
func Describe(pid int) string {
	p, ok := readProc(pid)
	if !ok {
		return fmt.Sprintf("process %d is gone", pid)
	}
	return fmt.Sprintf("process %d, child of %d, state %s, waits in %s: %q", pid, p.ppid, p.state, readProcFile(pid, "wchan"), p.args)
}

// Keeper returns the keeper's pid, or 0: its command line names the instance's
// state directory.
func (i *Instance) Keeper() int { return i.keeperOf(procs()) }

// keeperOf finds it among processes. Its child has its command line until execve(2),
// and a lower number at times.
func (i *Instance) keeperOf(list []proc) int {
	inState := func(arg string) bool { return strings.HasPrefix(arg, i.State+"/") }
	var pids []int
	for _, p := range list {
		if len(p.args) > 1 && p.args[1] == "keeper" && slices.ContainsFunc(p.args, inState) && p.state != "Z" {
			pids = append(pids, p.pid)
		}
	}
	return Oldest(pids)
}

// KillKeeper kills the keeper with SIGKILL and returns its pid once it is gone.
func (i *Instance) KillKeeper() int {
	i.T.Helper()
	pid := i.Keeper()
	if pid == 0 {
		i.T.Fatal("there is no keeper to kill")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		i.T.Fatalf("cannot kill the keeper: %v", err)
	}
	i.Wait("the keeper's end", func() bool { return !Alive(pid) })
	return pid
}
