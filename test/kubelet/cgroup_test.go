package kubelet_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// hierarchies lists where cgroup hierarchies are mounted: one on cgroup v2, all
// of them in hybrid mode.
func hierarchies() (list []string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		left, right, _ := strings.Cut(line, " - ")
		if l := strings.Fields(left); len(l) > 4 && strings.HasPrefix(right, "cgroup") {
			list = append(list, l[4])
		}
	}
	return list
}

// makeCgroup makes a cgroup in every hierarchy. One of cpuset takes no process
// before it has processors and memory nodes.
func makeCgroup(name string) error {
	if unified() { // one at a time: not every kernel has each
		for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
			os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+controller), 0)
		}
	}
	for _, h := range hierarchies() {
		dir := filepath.Join(h, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(h, file))
			if err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// slices says whether pods are systemd's slices and containers its scopes, as cri-box
// has them by itself where systemd is init.
func (n *Node) slices() bool { return n.peer == nil && harness.BySystemd() && unified() }

// group is the path of the cgroup that the kubelet calls by these names: directories,
// or slices of which each is called as its parent and by its own name.
func (n *Node) group(names ...string) (path string) {
	if !n.slices() {
		return "/" + strings.Join(names, "/")
	}
	slice := ""
	for _, name := range names {
		slice += strings.ReplaceAll(name, "-", "_")
		path += "/" + slice + ".slice"
		slice += "-"
	}
	return path
}

// makeCgroup makes the cgroup below which the kubelet makes its own.
func (n *Node) makeCgroup(t testing.TB) {
	t.Helper()
	if n.slices() {
		systemctl(t, "start", filepath.Base(n.group(n.cgroup)))
	}
	if err := makeCgroup(n.group(n.cgroup)); err != nil {
		t.Fatal(err)
	}
}

func systemctl(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Errorf("systemctl %s: %v\n%s", args, err, out)
	}
}

// cgroups lists the node's cgroups in every hierarchy, the deepest first.
func (n *Node) cgroups() (list []string) {
	for _, h := range hierarchies() {
		filepath.WalkDir(filepath.Join(h, n.group(n.cgroup)), func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				list = append(list, name)
			}
			return nil
		})
	}
	slices.SortStableFunc(list, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return list
}

// podCgroups lists those of pods and containers.
func (n *Node) podCgroups() []string {
	return slices.DeleteFunc(n.cgroups(), func(name string) bool { return !strings.Contains(name, "pod"+uidPrefix) })
}

// removeCgroup removes them all.
func (n *Node) removeCgroup(t testing.TB) {
	if n.slices() { // systemd removes them a little later
		systemctl(t, "stop", filepath.Base(n.group(n.cgroup)))
		if !within(patience, func() bool { return len(n.cgroups()) == 0 }) {
			t.Errorf("cgroups are left: %q", n.cgroups())
		}
	}
	for _, dir := range n.cgroups() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("cannot remove a cgroup: %v", err)
		}
	}
}

// A cgroupFile is one setting under its names in cgroup v1 and v2.
type cgroupFile struct{ v1, v2 string }

// The settings that tests look at.
var (
	memoryLimit = cgroupFile{"memory/memory.limit_in_bytes", "memory.max"}
	memoryUsage = cgroupFile{"memory/memory.usage_in_bytes", "memory.current"}
	cpuShares   = cgroupFile{"cpu/cpu.shares", "cpu.weight"}
	cpuQuota    = cgroupFile{"cpu/cpu.cfs_quota_us", "cpu.max"}
	cpuUsage    = cgroupFile{"cpuacct/cpuacct.usage", "cpu.stat"}
	processes   = cgroupFile{"pids/cgroup.procs", "cgroup.procs"}
)

// unified says whether the machine has cgroup v2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// read returns a setting of a cgroup, such as "/x/kubepods/pod1".
func (f cgroupFile) read(t testing.TB, group string) string {
	t.Helper()
	name := filepath.Join("/sys/fs/cgroup", group, f.v2)
	if !unified() {
		name = filepath.Join("/sys/fs/cgroup", filepath.Dir(f.v1), group, filepath.Base(f.v1))
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
