package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Update brings a container's limits from those of one spec to those of another,
// all of them or none: linux.resources, and oom_score_adj of every process in it.
// A container that was prepared is prepared anew when it starts.
func (r *Runtime) Update(ctx context.Context, id, cgroup string, from, to *specs.Spec) error {
	group, err := r.cgroupOf(id, cgroup)
	if err != nil {
		return err
	}
	scores := oomScores{}
	defer scores.close()
	if from := from.Process.OOMScoreAdj; to.Process.OOMScoreAdj != nil && (from == nil || *from != *to.Process.OOMScoreAdj) {
		err = scores.set(group, *to.Process.OOMScoreAdj)
	}
	if err == nil {
		err = group.Update(ctx, to.Linux.Resources)
	}
	if err != nil {
		return errors.Join(err, scores.restore())
	}
	group.Adopt(0, to.Linux.Resources)
	r.dropPrepared(id)
	return nil
}

// dropPrepared makes Start prepare the container from its spec.
func (r *Runtime) dropPrepared(id string) {
	r.mu.Lock()
	p := r.prepared[id]
	delete(r.prepared, id)
	r.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// oomScores are the oom_score_adj that processes had, by the open /proc/PID.
type oomScores map[*os.File]string

// scorePasses bounds how often processes are listed: what forks all the time may
// always have one more.
const scorePasses = 10

// set changes the value of all processes in the group. What was forked meanwhile
// has its parent's old value, and is listed a moment after it took that: they are
// looked at until twice all had the new one.
func (o oomScores) set(group *cgroup.Cgroup, to int) error {
	for pass, calm := 0, 0; pass < scorePasses && calm < 2; pass++ {
		dirs, err := processDirs(group)
		if err != nil {
			return err
		}
		changed, err := o.setAll(dirs, strconv.Itoa(to))
		if err != nil {
			return fmt.Errorf("cannot set oom_score_adj to %d: %w", to, err)
		}
		if calm++; changed {
			calm = 0
		}
	}
	return nil
}

// setAll takes the directories over.
func (o oomScores) setAll(dirs []*os.File, to string) (changed bool, err error) {
	for i, dir := range dirs {
		before, err := readAt(dir, "oom_score_adj")
		if err == nil && before != to {
			err = writeAt(dir, "oom_score_adj", to)
		}
		switch {
		case ended(err), err == nil && before == to:
			dir.Close()
		case err != nil:
			closeAll(dirs[i:])
			return changed, err
		default:
			o[dir], changed = before, true
		}
	}
	return changed, nil
}

// restore gives each process back what it had.
func (o oomScores) restore() error {
	var errs []error
	for dir, value := range o {
		if err := writeAt(dir, "oom_score_adj", value); !ended(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o oomScores) close() {
	for dir := range o {
		dir.Close()
	}
}

// ended tells that a process has gone meanwhile.
func ended(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// processDirs opens /proc/PID of the group's processes. A pid says little by
// itself; one that is in the group after its directory was opened is the
// process of that directory.
func processDirs(group *cgroup.Cgroup) ([]*os.File, error) {
	before, err := group.Procs()
	if err != nil {
		return nil, err
	}
	opened := map[int]*os.File{}
	for _, pid := range before {
		if dir, err := os.Open("/proc/" + strconv.Itoa(pid)); err == nil {
			opened[pid] = dir
		}
	}
	after, err := group.Procs()
	var dirs []*os.File
	for pid, dir := range opened {
		if err != nil || !slices.Contains(after, pid) {
			dir.Close()
			continue
		}
		dirs = append(dirs, dir)
	}
	return dirs, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func readAt(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 32)
	n, err := unix.Read(fd, b)
	return strings.TrimSpace(string(b[:max(n, 0)])), err
}

func writeAt(dir *os.File, name, value string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
