package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// makeDirs makes the group's directory in every hierarchy.
func (s *System) makeDirs(cgroupPath string) error {
	existed := false
	for _, dir := range s.dirs(cgroupPath) {
		err := makeDir(dir)
		if errors.Is(err, unix.EEXIST) {
			existed = true
			continue
		}
		if err != nil {
			return err
		}
	}
	if existed {
		if err := s.mustBeEmpty(cgroupPath); err != nil {
			return err
		}
	}
	if dir := s.dir("cpuset", cgroupPath); dir != "" {
		if err := inheritCpuset(dir); err != nil {
			return err
		}
	}
	if s.Mode == V2 {
		return s.enable(cgroupPath)
	}
	return nil
}

// makeDir makes dir and the parents it lacks. A pod that goes may remove a
// parent in between (RemoveEmptyParents), hence more than one try.
func makeDir(dir string) error {
	for range 10 {
		err := unix.Mkdir(dir, 0o755)
		if !errors.Is(err, unix.ENOENT) {
			if err != nil {
				err = &os.PathError{Op: "mkdir", Path: dir, Err: err}
			}
			return err
		}
		if err := makeDir(path.Dir(dir)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return fmt.Errorf("cannot make %s: its parent vanishes again and again", dir)
}

func (s *System) mustBeEmpty(cgroupPath string) error {
	pids, err := s.procs(s.processDir(cgroupPath))
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("it exists and process %d is in it", pids[0])
	}
	return nil
}

// inheritCpuset gives a new v1 cpuset, and the parents that lack them, the
// parent's cpus and mems: nothing can join a cpuset without (cpusets.rst).
func inheritCpuset(dir string) error {
	var missing []string
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := readLine(dir, name)
		if err != nil {
			return err
		}
		if value == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	parent := path.Dir(dir)
	if err := inheritCpuset(parent); err != nil {
		return err
	}
	for _, name := range missing {
		value, err := readLine(parent, name)
		if err != nil {
			return err
		}
		if err := writeFile(dir, name, value); err != nil {
			return err
		}
	}
	return nil
}

// enable turns on every controller for a new v2 group, in its ancestors, unless
// they have: the kubelet does so for its own.
func (s *System) enable(cgroupPath string) error {
	dir := s.unifiedDir(cgroupPath)
	have, err := readLine(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	on := strings.Fields(have)
	if !slices.ContainsFunc(s.controllers, func(c string) bool { return !slices.Contains(on, c) }) && s.populated(dir) {
		return nil
	}
	return fs2.CreateCgroupPath(dir, &cgroups.Cgroup{Resources: &cgroups.Resources{}})
}

// populated says whether the files of the controllers are there. While another turns
// them on, the kernel lists them in cgroup.controllers first and makes the files
// after that; who turns them on as well waits until it is done (cgroup_mutex).
func (s *System) populated(dir string) bool {
	for controller, file := range map[string]string{"memory": "memory.events", "pids": "pids.max"} {
		if s.Has(controller) && unix.Access(path.Join(dir, file), unix.F_OK) != nil {
			return false
		}
	}
	return true
}

func readLine(dir, name string) (string, error) {
	var buf [4096]byte
	fd, err := openFile(unix.AT_FDCWD, path.Join(dir, name), unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer fd.Close()
	n, err := fd.Read(buf[:])
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

func writeFile(dir, name, value string) error {
	f, err := openFile(unix.AT_FDCWD, path.Join(dir, name), unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("cannot write %q: %w", value, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("cannot write %q: %w", value, err)
	}
	return nil
}
