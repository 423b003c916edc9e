package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxGroups bounds how many groups a container can have made below its own.
const maxGroups = 10000

// Remove closes the group and removes it, see System.Remove.
func (c *Cgroup) Remove(ctx context.Context) error {
	c.Close()
	return c.sys.Remove(ctx, c.Path)
}

// Remove removes the group and those below in every hierarchy. If processes are
// still ending in it, it waits for their end, as long as ctx and at most 30
// seconds. It kills none. What is not there needs no removal.
func (s *System) Remove(ctx context.Context, cgroupPath string) error {
	if err := checkPath(cgroupPath); err != nil {
		return fmt.Errorf("cannot remove %w", err)
	}
	for range 10 {
		err := s.removeNow(cgroupPath)
		if err == nil {
			s.forgetKills(cgroupPath)
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot remove cgroup %s: %w", cgroupPath, err)
		}
		if err := s.waitEmpty(ctx, cgroupPath); err != nil {
			pids, _ := s.procs(s.processDir(cgroupPath)) // only to name one
			return fmt.Errorf("cannot remove cgroup %s with processes %v: %w", cgroupPath, pids[:min(len(pids), 8)], err)
		}
	}
	return fmt.Errorf("cannot remove cgroup %s: %w although no process is in it", cgroupPath, unix.EBUSY)
}

// removeNow removes v2 first: while it is busy everything is.
func (s *System) removeNow(cgroupPath string) error {
	dirs := s.dirs(cgroupPath)
	slices.Reverse(dirs)
	var errs []error
	for _, dir := range dirs {
		if err := removeTree(dir); errors.Is(err, unix.EBUSY) {
			return err
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a group and those below, deepest first. That there are
// none is the usual case and tried first.
func removeTree(dir string) error {
	if err := rmdir(dir); !errors.Is(err, unix.EBUSY) {
		return err
	}
	var below []string
	err := eachBelow(dir, func(d string) error {
		below = append(below, d)
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(below) {
		if err := rmdir(d); err != nil {
			return err
		}
	}
	return nil
}

func rmdir(dir string) error {
	for {
		err := unix.Rmdir(dir)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EINTR:
		default:
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}

// eachBelow calls do for dir and every group below it, parents first. A group
// that vanishes meanwhile is passed over; that dir is missing is an error.
func eachBelow(dir string, do func(dir string) error) error {
	todo := []string{dir}
	for seen := 0; len(todo) > 0; seen++ {
		if seen > maxGroups {
			return fmt.Errorf("%s has more than %d groups below it", dir, maxGroups)
		}
		d := todo[0]
		todo = todo[1:]
		entries, err := os.ReadDir(d)
		if err == nil {
			err = do(d)
		}
		if d != dir && gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				todo = append(todo, path.Join(d, e.Name()))
			}
		}
	}
	return nil
}

// gone says whether err is what a removed group gives.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// RemoveEmptyParents removes the parents of cgroupPath in which nothing is left,
// nearest first, up to and including base: with base /cri-box those that Create
// made for /cri-box/<pod id>/<id>.
func (s *System) RemoveEmptyParents(cgroupPath, base string) error {
	if err := errors.Join(checkPath(cgroupPath), checkPath(base)); err != nil {
		return fmt.Errorf("cannot remove parents of %w", err)
	}
	var errs []error
	for parent := path.Dir(cgroupPath); parent == base || strings.HasPrefix(parent, base+"/"); parent = path.Dir(parent) {
		for _, dir := range s.dirs(parent) {
			if err := rmdir(dir); err != nil && !errors.Is(err, unix.EBUSY) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot remove parents of cgroup %s: %w", cgroupPath, err)
	}
	return nil
}

// List names the groups directly below base in any hierarchy, sorted: what is
// there, whatever was recorded.
func (s *System) List(base string) ([]string, error) {
	if err := checkPath(base); err != nil {
		return nil, fmt.Errorf("cannot list %w", err)
	}
	var names []string
	for _, dir := range s.dirs(base) {
		entries, err := os.ReadDir(dir)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("cannot list cgroups below %s: %w", base, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
