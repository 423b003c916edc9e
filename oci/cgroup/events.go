package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxWait bounds a wait whose context has no end.
const maxWait = 30 * time.Second

// WaitEmpty returns when no process is left in the group and those below, or
// with the error of ctx, after 30 seconds at the latest.
func (c *Cgroup) WaitEmpty(ctx context.Context) error { return c.sys.WaitEmpty(ctx, c.Path) }

// WaitEmpty is the same for the group at cgroupPath; one that is gone is empty.
func (s *System) WaitEmpty(ctx context.Context, cgroupPath string) error {
	if err := s.waitEmpty(ctx, cgroupPath); err != nil {
		return fmt.Errorf("cannot wait for the end of cgroup %s: %w", cgroupPath, err)
	}
	return nil
}

func (s *System) waitEmpty(ctx context.Context, cgroupPath string) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	if s.unified == "" {
		return s.waitExits(ctx, cgroupPath)
	}
	dir, err := openFile(unix.AT_FDCWD, s.unifiedDir(cgroupPath), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return waitEvent(ctx, dir, "populated", 0)
}

// waitEvent waits until cgroup.events of the v2 group dir says that key is want,
// or the group is gone. The kernel wakes pollers of the file at each change
// (cgroup-v2.rst); Go's poller waits for the edge.
func waitEvent(ctx context.Context, dir *os.File, key string, want uint64) error {
	f, err := openFile(int(dir.Fd()), "cgroup.events", unix.O_RDONLY|unix.O_NONBLOCK)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// Fails if the poller does not take the file: then nothing would wake us.
	if err := f.SetReadDeadline(time.Now().Add(maxWait)); err != nil {
		return fmt.Errorf("cannot watch cgroup.events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		var now uint64
		now, failed = readEvent(int(fd), key)
		return failed != nil || now == want
	})
	switch {
	case errors.Is(failed, unix.ENODEV): // removed
		return nil
	case failed != nil:
		return failed
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

func readEvent(fd int, key string) (uint64, error) {
	var buf [256]byte
	n, err := unix.Pread(fd, buf[:], 0)
	if err != nil {
		return 0, err
	}
	now, ok := field(buf[:n], key)
	if !ok {
		return 0, fmt.Errorf("cgroup.events has no %s", key)
	}
	return now, nil
}

// waitExits is for V1, which has no such event: it waits for each process.
func (s *System) waitExits(ctx context.Context, cgroupPath string) error {
	for {
		pids, err := s.procs(s.processDir(cgroupPath))
		if errors.Is(err, os.ErrNotExist) || err == nil && len(pids) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if err := waitExit(ctx, pids[0]); err != nil {
			return err
		}
	}
}

func waitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.O_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(maxWait)); err != nil {
		return fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
