package cgroup

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMountinfo: hosts of each kind, as their mountinfo shows them.
func TestMountinfo(t *testing.T) {
	for name, host := range map[string]struct {
		lines       string
		mode        Mode
		views       string
		controllers string
	}{
		"v1 by systemd": {`
26 20 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
28 26 0:24 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,release_agent=/a,name=systemd
30 26 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
31 26 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory`,
			V1, "systemd=/sys/fs/cgroup/systemd/a cpu,cpuacct=/sys/fs/cgroup/cpu,cpuacct/a memory=/sys/fs/cgroup/memory/a", "cpu cpuacct memory"},
		"hybrid, one mounted twice": {`
31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 20 0:27 / /var/lib/box/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 20 0:28 / /run/unified rw - cgroup2 cgroup2 rw`,
			Hybrid, "memory=/sys/fs/cgroup/memory/a unified=/sys/fs/cgroup/unified/a", "memory"},
	} {
		s := &System{}
		for _, line := range strings.Split(host.lines, "\n") {
			s.mounted(line)
		}
		if err := s.settle(); err != nil || s.Mode != host.mode {
			t.Errorf("%s: mode %s, %v", name, s.Mode, err)
		}
		var views []string
		for _, v := range s.Views("/a") {
			views = append(views, v.Name+"="+v.Dir)
		}
		if got := strings.Join(views, " "); got != host.views {
			t.Errorf("%s: views %s", name, got)
		}
		if got := strings.Join(s.Controllers(), " "); got != host.controllers {
			t.Errorf("%s: controllers %s", name, got)
		}
	}
	if err := (&System{}).settle(); err == nil {
		t.Error("no control groups: no error")
	}
}

// TestDetect compares with what the kernel says of this process: a line for each
// hierarchy.
func TestDetect(t *testing.T) {
	s := system(t)
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	hierarchies := 0
	for line := range strings.Lines(string(data)) {
		hierarchies++
		f := strings.SplitN(line, ":", 3)
		for _, c := range strings.Split(f[1], ",") {
			if c != "" && !strings.HasPrefix(c, "name=") && !s.Has(c) {
				t.Errorf("controller %s was not found in %v", c, s.Controllers())
			}
		}
	}
	if got := len(s.Views("/")); got != hierarchies {
		t.Errorf("%d hierarchies found, the kernel has %d", got, hierarchies)
	}
	if !s.Has("memory") || !s.Has("pids") || !slices.IsSorted(s.Controllers()) {
		t.Errorf("controllers: %v", s.Controllers())
	}
}
