package main

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cri-box/cri-box/test/probe/state"
)

func namespaces() map[string]string {
	all := map[string]string{}
	for _, name := range names("/proc/self/ns") {
		all[name], _ = os.Readlink("/proc/self/ns/" + name)
	}
	return all
}

func attrs() map[string]string {
	all := map[string]string{}
	for _, name := range names("/proc/self/attr") {
		if text := readText("/proc/self/attr/" + name); text != "" {
			all[name] = text
		}
	}
	return all
}

func view(st status) state.View {
	return state.View{
		Hostname:       readText("/proc/sys/kernel/hostname"),
		Domainname:     readText("/proc/sys/kernel/domainname"),
		InitComm:       readText("/proc/1/comm"),
		Cgroup:         strings.Split(readText("/proc/self/cgroup"), "\n"),
		Links:          links(),
		Root:           names("/"),
		Umask:          st["Umask"],
		OOMScoreAdj:    atoi(readText("/proc/self/oom_score_adj")),
		CoredumpFilter: readText("/proc/self/coredump_filter"),
		UIDMap:         strings.Join(strings.Fields(readText("/proc/self/uid_map")), " "),
	}
}

func links() []string {
	list := []string{}
	ifaces, _ := net.Interfaces()
	for _, i := range ifaces {
		list = append(list, i.Name)
	}
	return list
}

func names(dir string) []string {
	list := []string{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// mounts parses /proc/self/mountinfo, proc_pid_mountinfo(5): optional fields
// stand between the sixth and a lone hyphen.
func mounts() []state.Mount {
	list := []state.Mount{}
	for _, line := range strings.Split(readText("/proc/self/mountinfo"), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		list = append(list, state.Mount{
			Root: unescape(l[3]), Target: unescape(l[4]), Options: l[5], Propagation: strings.Join(l[6:], " "),
			FSType: r[0], Source: unescape(r[1]), SuperOpts: unescape(r[2]),
		})
	}
	return list
}

// unescape undoes what the kernel does to blanks in a path.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// devices lists /dev, without what other mounts there hold.
func devices() []state.Node {
	list := []state.Node{}
	filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "/dev" {
			return nil
		}
		if info, err := d.Info(); err == nil {
			list = append(list, node(path, info))
		}
		return nil
	})
	return list
}

func node(path string, info fs.FileInfo) state.Node {
	n := state.Node{Name: strings.TrimPrefix(path, "/dev/"), Mode: info.Mode().String()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		n.UID, n.GID = int(st.Uid), int(st.Gid)
		if info.Mode()&fs.ModeDevice != 0 {
			n.Dev = device(st.Rdev)
		}
	}
	n.Link, _ = os.Readlink(path)
	return n
}
