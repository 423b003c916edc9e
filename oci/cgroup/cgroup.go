package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Cgroup is one control group: the same path in every hierarchy. It holds two
// descriptors until Close and, once it was measured, one for each v1 hierarchy
// that measures. Its methods may be called at the same time, but not after Close;
// those that measure may, and find no group.
type Cgroup struct {
	// Path is below each hierarchy's root, such as /cri-box/<pod id>/<id>.
	Path string

	sys     *System
	unified *os.File // directory on v2, nil on V1
	oom     *os.File // memory.oom_control or memory.events, nil without memory
	dirs    directories
}

// Create makes the group in every hierarchy, with missing parents, and sets the
// limits in r; what r leaves out is not written. With r nil there are no limits:
// the parent of a pod's containers. A group that is there already, from a start
// that was cut short, is taken if no process is in it. On failure nothing of the
// group is left.
func (s *System) Create(ctx context.Context, cgroupPath string, r *specs.LinuxResources) (*Cgroup, error) {
	if err := checkPath(cgroupPath); err != nil {
		return nil, fmt.Errorf("cannot create %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot create cgroup %s: %w", cgroupPath, err)
	}
	limits, err := s.convert(r)
	if err != nil {
		return nil, fmt.Errorf("cannot create cgroup %s: %w", cgroupPath, err)
	}
	c, err := s.create(cgroupPath, limits)
	if err != nil {
		undo := s.removeNow(cgroupPath)
		return nil, errors.Join(fmt.Errorf("cannot create cgroup %s: %w", cgroupPath, err), undo)
	}
	return c, nil
}

// createTries is how often one goes on where systemd takes the controllers away from a
// slice, with its last scope, between two steps of a creation (Lost): it does so once.
const createTries = 3

func (s *System) create(cgroupPath string, limits *cgroups.Resources) (c *Cgroup, err error) {
	for range createTries {
		c, err = s.createOnce(cgroupPath, limits)
		if !gone(err) || !inSlice(cgroupPath) {
			break
		}
	}
	return c, err
}

func (s *System) createOnce(cgroupPath string, limits *cgroups.Resources) (*Cgroup, error) {
	if err := s.makeDirs(cgroupPath); err != nil {
		return nil, err
	}
	if err := s.set(cgroupPath, limits); err != nil {
		return nil, err
	}
	return s.Open(cgroupPath)
}

// Open opens a group that exists, as after a restart. The error of one that
// does not is fs.ErrNotExist.
func (s *System) Open(cgroupPath string) (*Cgroup, error) {
	if err := checkPath(cgroupPath); err != nil {
		return nil, fmt.Errorf("cannot open %w", err)
	}
	c := &Cgroup{Path: cgroupPath, sys: s}
	if err := c.open(); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot open cgroup %s: %w", cgroupPath, err)
	}
	s.watchSlice(c)
	return c, nil
}

func (c *Cgroup) open() (err error) {
	if dir := c.sys.unifiedDir(c.Path); dir != "" {
		if c.unified, err = openFile(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
			return err
		}
	}
	counter := path.Join(c.sys.unifiedDir(c.Path), "memory.events")
	if c.sys.Mode != V2 {
		counter = path.Join(c.sys.dir("memory", c.Path), "memory.oom_control")
	}
	if c.sys.Has("memory") {
		c.oom, err = openFile(unix.AT_FDCWD, counter, unix.O_RDONLY)
	}
	return err
}

// Close closes the descriptors. The group stays.
func (c *Cgroup) Close() {
	for _, f := range []*os.File{c.unified, c.oom} {
		if f != nil {
			f.Close()
		}
	}
	c.sys.held.Add(-c.dirs.close())
}

// UnifiedDir is the group's v2 directory for CLONE_INTO_CGROUP, nil on V1. The
// group keeps it.
func (c *Cgroup) UnifiedDir() *os.File { return c.unified }

// TasksFDs opens the tasks file of every v1 hierarchy for writing, none on V2:
// a child that writes "0" into each has joined them. Before a process has more
// than one thread tasks does what cgroup.procs does, without its lock (p99 0.3
// instead of 7 ms). The caller owns and closes them.
func (c *Cgroup) TasksFDs() ([]*os.File, error) {
	var files []*os.File
	for _, h := range c.sys.v1 {
		f, err := openFile(unix.AT_FDCWD, path.Join(h.dir, c.Path, "tasks"), unix.O_WRONLY)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Views lists the group's directories, for the container's own /sys/fs/cgroup.
func (c *Cgroup) Views() []View { return c.sys.Views(c.Path) }

// OOMKills counts the processes of the group that the kernel killed because
// memory was short. On v1 the kernel does not count those of groups below.
func (c *Cgroup) OOMKills() (uint64, error) {
	if c.oom == nil {
		return 0, nil
	}
	kills, err := c.ownKills()
	if gone(err) && inSlice(c.Path) {
		return c.sys.killsOfGone(c), nil
	}
	return kills, err
}

func (c *Cgroup) ownKills() (uint64, error) {
	var buf [1024]byte
	n, err := c.oom.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return 0, fmt.Errorf("cannot count out-of-memory kills of cgroup %s: %w", c.Path, err)
	}
	kills, ok := field(buf[:n], "oom_kill")
	if !ok { // before Linux 4.13 there is no counter
		return 0, fmt.Errorf("cannot count out-of-memory kills of cgroup %s: %s has no oom_kill", c.Path, c.oom.Name())
	}
	return kills, nil
}

// Procs lists the processes in the group and all groups below.
func (c *Cgroup) Procs() ([]int, error) {
	pids, err := c.sys.procs(c.sys.processDir(c.Path))
	if err != nil {
		return nil, fmt.Errorf("cannot list processes of cgroup %s: %w", c.Path, err)
	}
	return pids, nil
}

// processDir is a directory in which every process of the group is.
func (s *System) processDir(cgroupPath string) string {
	if s.unified != "" {
		return s.unifiedDir(cgroupPath)
	}
	return path.Join(s.v1[0].dir, cgroupPath)
}

func (s *System) procs(dir string) ([]int, error) {
	var pids []int
	err := eachBelow(dir, func(dir string) error {
		data, err := os.ReadFile(path.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return lines.Err()
	})
	return pids, err
}

// field returns the number after a name in a file of "name number" lines.
func field(data []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok || len(rest) == 0 || rest[0] != ' ' {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(rest)), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// openFile opens a file of a control group. Unlike os.OpenFile it does not try
// the poller.
func openFile(dir int, name string, flags int) (*os.File, error) {
	fd, err := openFD(dir, name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openFD(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return fd, nil
		case err != unix.EINTR:
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}
