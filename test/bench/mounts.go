package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A mountWatch counts how often a mount namespace's table changed: each time
// wakes whoever watches mountinfo, such as systemd (proc_pid_mountinfo(5)).
// Changes between two looks count once.
type mountWatch struct {
	file   *os.File
	events atomic.Int64
	stop   chan struct{}
	ended  chan struct{}
}

func watchMounts(pid int) (*mountWatch, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	w := &mountWatch{file: f, stop: make(chan struct{}), ended: make(chan struct{})}
	go w.watch()
	return w, nil
}

func (w *mountWatch) watch() {
	defer close(w.ended)
	for {
		p := []unix.PollFd{{Fd: int32(w.file.Fd()), Events: unix.POLLPRI}}
		if n, err := unix.Poll(p, 50); err == nil && n > 0 {
			w.events.Add(1)
		}
		select {
		case <-w.stop:
			return
		default:
		}
	}
}

// end returns the count.
func (w *mountWatch) end() float64 {
	close(w.stop)
	<-w.ended
	w.file.Close()
	return float64(w.events.Load())
}

// mountEvents counts them over pod cycles, in the daemon's own mount namespace.
func mountEvents(ctx context.Context, b *bench) error {
	for _, e := range b.endpoints {
		if e.daemon == nil {
			continue
		}
		w, err := watchMounts(e.daemon.cmd.Process.Pid)
		if err != nil {
			return err
		}
		s := b.settings
		s.execs = 0
		const cycles = 5
		for range cycles {
			if err := e.cycle(ctx, s); err != nil {
				w.end()
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
		e.add("changes of the host's mounts per pod cycle", w.end()/cycles)
	}
	return nil
}
