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
// A container that was prepared is prepared anew when it starts. undo makes all what
// it was.
func (r *Runtime) Update(ctx context.Context, id, path string, from, to *specs.Spec) (undo func(context.Context) error, err error) {
	group, err := r.cgroupOf(id, path)
	if err != nil {
		return nil, err
	}
	scores := oomScores{}
	if from := from.Process.OOMScoreAdj; to.Process.OOMScoreAdj != nil && (from == nil || *from != *to.Process.OOMScoreAdj) {
		err = scores.set(group, *to.Process.OOMScoreAdj)
	}
	var limits cgroup.Undo
	if err == nil {
		limits, err = group.Update(ctx, to.Linux.Resources)
	}
	if err != nil {
		return nil, errors.Join(err, scores.restore())
	}
	group.Adopt(0, to.Linux.Resources)
	r.dropPrepared(id)
	return func(ctx context.Context) error {
		return errors.Join(limits(ctx, from.Linux.Resources), scores.restore())
	}, nil
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

// oomScores are the oom_score_adj that processes had.
type oomScores map[process]string

// A process is known again by its pid and when it began (StartTime).
type process struct {
	pid   int
	start uint64
}

const (
	// scorePasses bounds how often processes are listed: what forks all the time may
	// always have one more.
	scorePasses = 10
	// scoresAtOnce bounds the descriptors that this takes: a container may have more
	// processes than the daemon may have of those.
	scoresAtOnce = 64
)

// set changes the value of all processes in the group. What was forked meanwhile
// has its parent's old value, and is listed a moment after it took that: they are
// looked at until twice all had the new one.
func (o oomScores) set(group *cgroup.Cgroup, to int) error {
	for pass, calm := 0, 0; pass < scorePasses && calm < 2; pass++ {
		pids, err := group.Procs()
		if err != nil {
			return err
		}
		calm++
		for some := range slices.Chunk(pids, scoresAtOnce) {
			changed, err := o.setSome(group, some, strconv.Itoa(to))
			if err != nil {
				return fmt.Errorf("cannot set oom_score_adj to %d: %w", to, err)
			}
			if changed {
				calm = 0
			}
		}
	}
	return nil
}

func (o oomScores) setSome(group *cgroup.Cgroup, pids []int, to string) (changed bool, err error) {
	dirs, err := processDirs(group, pids)
	defer closeDirs(dirs)
	if err != nil {
		return false, err
	}
	for pid, dir := range dirs {
		start := StartTime(pid) // its own, if it can be written to after that
		before, err := readAt(dir, "oom_score_adj")
		if err == nil && before != to {
			err = writeAt(dir, "oom_score_adj", to)
		}
		switch {
		case ended(err), err == nil && before == to:
		case err != nil:
			return changed, err
		default:
			o[process{pid, start}], changed = before, true
		}
	}
	return changed, nil
}

// restore gives each process back what it had.
func (o oomScores) restore() error {
	var errs []error
	for p, value := range o {
		if err := p.setScore(value); !ended(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (p process) setScore(value string) error {
	dir, err := openProcess(p.pid)
	if err != nil {
		return err
	}
	defer dir.Close()
	if StartTime(p.pid) != p.start { // another has its pid
		return nil
	}
	return writeAt(dir, "oom_score_adj", value)
}

// ended tells that a process has gone meanwhile.
func ended(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// processDirs opens /proc/PID of those that are in the group. A pid says little by
// itself; one that is in the group after its directory was opened is the
// process of that directory.
func processDirs(group *cgroup.Cgroup, pids []int) (map[int]*os.File, error) {
	dirs := map[int]*os.File{}
	for _, pid := range pids {
		dir, err := openProcess(pid)
		switch {
		case err == nil:
			dirs[pid] = dir
		case !ended(err):
			return dirs, err
		}
	}
	after, err := group.Procs()
	for pid, dir := range dirs {
		if !slices.Contains(after, pid) {
			dir.Close()
			delete(dirs, pid)
		}
	}
	return dirs, err
}

func openProcess(pid int) (*os.File, error) { return os.Open("/proc/" + strconv.Itoa(pid)) }

func closeDirs(dirs map[int]*os.File) {
	for _, dir := range dirs {
		dir.Close()
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
