// Package cgroup makes, limits, measures and removes the control groups of pods
// and containers, on cgroup v1, v2 and the hybrid of both. Limits are written by
// github.com/opencontainers/cgroups; what is done for every container (make,
// kill, measure, remove) is done here, with no file touched that need not be.
//
// In hybrid mode limits are on the v1 hierarchies, and the v2 hierarchy holds
// the same directories for what v1 lacks: born into (CLONE_INTO_CGROUP), freeze,
// kill, and the event of the last process's end.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Mode is how the host has its control groups mounted.
type Mode string

// The modes.
const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid"
	V2     Mode = "v2"
)

// System is the host's control group hierarchies. After UseSystemd it never changes; it may be
// used by many goroutines.
type System struct {
	// Mode is how they are mounted.
	Mode Mode

	v1          []hierarchy
	unified     string       // mount point of v2, empty in V1
	controllers []string     // that limits can be set with
	units       *Units       // with the systemd driver
	held        atomic.Int64 // directories that measurements hold
	turns       turns

	kills struct {
		sync.Mutex
		slices map[string]*sliceKills
	}
}

// A hierarchy is one mounted v1 hierarchy.
type hierarchy struct {
	dir         string   // mount point, such as /sys/fs/cgroup/cpu,cpuacct
	controllers []string // "cpu", "cpuacct", or "name=systemd"
}

// Detect finds the hierarchies in this process's mount namespace.
func Detect() (*System, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	defer f.Close()
	s := &System{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s.mounted(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	return s, s.settle()
}

// mounted takes up one line of mountinfo, see proc_pid_mountinfo(5). Of a
// hierarchy mounted twice the first counts, which is the host's own below
// /sys/fs/cgroup.
func (s *System) mounted(line string) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 3 {
		return
	}
	dir := left[4]
	switch {
	case !strings.HasPrefix(dir, "/sys/fs/cgroup"):
	case right[0] == "cgroup2" && s.unified == "":
		s.unified = dir
	case right[0] == "cgroup" && !s.has(dir):
		s.v1 = append(s.v1, hierarchy{dir, v1Controllers(right[2])})
	}
}

func (s *System) has(dir string) bool {
	return slices.ContainsFunc(s.v1, func(h hierarchy) bool { return h.dir == dir })
}

// v1Controllers picks the controllers out of a v1 mount's options, such as
// "rw,cpu,cpuacct" or "rw,xattr,name=systemd".
func v1Controllers(options string) []string {
	var found []string
	for _, o := range strings.Split(options, ",") {
		if strings.HasPrefix(o, "name=") || slices.Contains(v1Names, o) {
			found = append(found, o)
		}
	}
	return found
}

var v1Names = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory",
	"misc", "net_cls", "net_prio", "perf_event", "pids", "rdma",
}

// settle decides the mode once all mounts are known.
func (s *System) settle() error {
	switch {
	case s.unified == "" && len(s.v1) == 0:
		return errors.New("cannot find control groups: neither cgroup nor cgroup2 is mounted below /sys/fs/cgroup")
	case len(s.v1) == 0:
		s.Mode = V2
		data, err := os.ReadFile(path.Join(s.unified, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("cannot read controllers: %w", err)
		}
		s.controllers = strings.Fields(string(data))
	case s.unified == "":
		s.Mode = V1
	default:
		s.Mode = Hybrid
	}
	for _, h := range s.v1 {
		for _, c := range h.controllers {
			if !strings.HasPrefix(c, "name=") {
				s.controllers = append(s.controllers, c)
			}
		}
	}
	slices.Sort(s.controllers)
	return nil
}

// Driver is the name that CRI's RuntimeConfig has for who makes the groups.
func (s *System) Driver() string {
	if s.units != nil {
		return "systemd"
	}
	return "cgroupfs"
}

// Controllers are those with which limits can be set, sorted.
func (s *System) Controllers() []string { return slices.Clone(s.controllers) }

// Has says whether limits can be set with that controller.
func (s *System) Has(controller string) bool { return slices.Contains(s.controllers, controller) }

// A View is one directory that a container sees below its /sys/fs/cgroup.
type View struct {
	// Name is the directory below /sys/fs/cgroup, such as "memory", "cpu,cpuacct"
	// or "unified"; empty on V2, where the group is /sys/fs/cgroup itself.
	Name string
	// Dir is the host's directory.
	Dir string
}

// Views lists the directories of the group at cgroupPath, for the container's
// own read-only /sys/fs/cgroup.
func (s *System) Views(cgroupPath string) []View {
	var views []View
	for _, h := range s.v1 {
		views = append(views, View{path.Base(h.dir), path.Join(h.dir, cgroupPath)})
	}
	switch s.Mode {
	case V2:
		views = append(views, View{"", path.Join(s.unified, cgroupPath)})
	case Hybrid:
		views = append(views, View{path.Base(s.unified), path.Join(s.unified, cgroupPath)})
	}
	return views
}

// dirs are the group's directories in all hierarchies.
func (s *System) dirs(cgroupPath string) []string {
	views := s.Views(cgroupPath)
	dirs := make([]string, len(views))
	for i, v := range views {
		dirs[i] = v.Dir
	}
	return dirs
}

// dir is the group's directory with that v1 controller, or empty.
func (s *System) dir(controller, cgroupPath string) string {
	for _, h := range s.v1 {
		if slices.Contains(h.controllers, controller) {
			return path.Join(h.dir, cgroupPath)
		}
	}
	return ""
}

// unifiedDir is the group's v2 directory, or empty on V1.
func (s *System) unifiedDir(cgroupPath string) string {
	if s.unified == "" {
		return ""
	}
	return path.Join(s.unified, cgroupPath)
}

// checkPath refuses what is no path of a group of ours.
func checkPath(cgroupPath string) error {
	switch {
	case !path.IsAbs(cgroupPath), path.Clean(cgroupPath) != cgroupPath, cgroupPath == "/":
		return fmt.Errorf("cgroup path %q: must be absolute, clean and not the root, such as /cri-box/<id>", cgroupPath)
	case len(cgroupPath) > unix.PathMax/2:
		return fmt.Errorf("cgroup path of %d bytes: too long", len(cgroupPath))
	}
	return nil
}
