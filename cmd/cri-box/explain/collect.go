package explain

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/oci/spec"
)

// kinds are the namespaces in the order in which they are shown.
var kinds = []string{"user", "net", "ipc", "uts", "pid", "mnt", "cgroup"}

// Complete fills in what the kernel says of f's pod and containers, whose ids,
// names, states and process ids are known. A process that ends meanwhile is left
// as far as it was seen.
func (f *Facts) Complete() {
	f.Pod.Node, f.Pod.Shared = namespaces(os.Getpid()), map[string]string{}
	for i := range f.Containers {
		f.Containers[i].look()
	}
	f.share()
	if f.Pod.NetNS != "" {
		f.Pod.lookNetwork()
	}
}

// namespaces are a process's, by kind.
func namespaces(pid int) map[string]string {
	ns := map[string]string{}
	for _, kind := range kinds {
		if text, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err == nil {
			ns[kind] = text
		}
	}
	return ns
}

// share takes from each container what is the pod's or the node's: the namespaces
// that differ from the node's, and are the pod's kind or more than one has.
func (f *Facts) share() {
	users := map[string]int{}
	for _, c := range f.Containers {
		for _, ns := range c.Own {
			users[ns]++
		}
	}
	for i := range f.Containers {
		own := f.Containers[i].Own
		maps.DeleteFunc(own, func(kind, ns string) bool {
			if ns == f.Pod.Node[kind] {
				return true
			}
			if users[ns] > 1 || slices.Contains([]string{"net", "ipc", "uts", "user"}, kind) {
				f.Pod.Shared[kind] = ns
				return true
			}
			return false
		})
	}
}

// look reads what the kernel has of a container's first process.
func (c *Container) look() {
	if c.PID == 0 {
		return
	}
	c.Own = namespaces(c.PID)
	c.Cgroups = groups(c.PID)
	c.Ration = ration(c.Cgroups)
	c.Mounts = mounts(c.PID)
	c.lookRights()
	for _, pid := range members(c.Cgroups) {
		c.Processes = append(c.Processes, process(pid))
	}
}

// groups are a process's control groups, by their controllers (cgroups(7)).
func groups(pid int) map[string]string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			paths[parts[1]] = parts[2]
		}
	}
	return paths
}

// Group is the path that most of a container's groups have.
func (c *Container) Group() string {
	count := map[string]int{}
	best := ""
	for _, controller := range slices.Sorted(maps.Keys(c.Cgroups)) {
		p := c.Cgroups[controller]
		if count[p]++; count[p] > count[best] {
			best = p
		}
	}
	return best
}

// maxProcesses bounds how many of a container's processes are shown.
const maxProcesses = 64

// members are the processes of a group: the first hierarchy that has them.
func members(paths map[string]string) (pids []int) {
	for _, controllers := range slices.Sorted(maps.Keys(paths)) {
		for _, dir := range []string{filepath.Join("/sys/fs/cgroup", controllers), "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			text, err := os.ReadFile(filepath.Join(dir, paths[controllers], "cgroup.procs"))
			if err != nil {
				continue
			}
			for field := range bytes.FieldsSeq(text) {
				if pid, err := strconv.Atoi(string(field)); err == nil && len(pids) < maxProcesses {
					pids = append(pids, pid)
				}
			}
			if len(pids) > 0 {
				return pids
			}
		}
	}
	return nil
}

func process(pid int) Process {
	p := Process{PID: pid}
	status := statusOf(pid)
	p.Command = status["Name"]
	if inner := strings.Fields(status["NSpid"]); len(inner) > 0 {
		p.Inside, _ = strconv.Atoi(inner[len(inner)-1])
	}
	return p
}

// statusOf reads /proc/PID/status (proc_pid_status(5)).
func statusOf(pid int) map[string]string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// seccompModes are what proc_pid_status(5) says of Seccomp.
var seccompModes = map[string]string{"0": "off", "1": "strict", "2": "a filter"}

func (c *Container) lookRights() {
	s := statusOf(c.PID)
	uid, gid := strings.Fields(s["Uid"]), strings.Fields(s["Gid"])
	if len(uid) == 0 || len(gid) == 0 { // it has ended
		return
	}
	r := &c.Rights
	r.User = uid[0] + ":" + gid[0]
	if s["Groups"] != "" {
		r.User += ", groups " + strings.Join(strings.Fields(s["Groups"]), " ")
	}
	r.Seccomp, r.NoNewPrivileges = seccompModes[s["Seccomp"]], s["NoNewPrivs"] == "1"
	set, _ := strconv.ParseUint(s["CapBnd"], 16, 64)
	r.Capabilities = spec.CapabilityNames(set)
	node, _ := strconv.ParseUint(statusOf(os.Getpid())["CapBnd"], 16, 64)
	r.Dropped, r.AllCapabilities = spec.CapabilityNames(node&^set), node&^set == 0
}

// mounts are what the process sees, by their places: the kernel's own order is that
// in which they were made, and many are made side by side. Of several on one place
// the last is on top.
func mounts(pid int) (list []Mount) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m, ok := parseMount(lines.Text()); ok {
			list = append(list, m)
		}
	}
	slices.SortStableFunc(list, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	return list
}

// parseMount reads a line of mountinfo: six fields, some tags, "-", and three more.
func parseMount(line string) (Mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 2 {
		return Mount{}, false
	}
	source := r[1]
	if root := l[3]; root != "/" { // a part of the file system
		source = path.Join(cmp.Or(strings.TrimSuffix(source, "none"), r[0])+":", root)
	}
	return Mount{Target: l[4], Options: l[5], Type: r[0], Source: source}, true
}
