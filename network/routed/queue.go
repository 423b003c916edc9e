package routed

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var errClosed = errors.New("cannot change the pod network: it is closed")

// kernelTimeout bounds the wait for one answer of the kernel.
const kernelTimeout = 10 * time.Second

// A queue runs jobs one after the other on one thread in the host's network
// namespace. One, because RTNL is an unfair lock: eight makers of veths are no
// faster than one, and the slowest call takes 108 ms instead of 3.
type queue struct {
	jobs chan job
	quit chan struct{} // closed by stop
	done chan struct{} // closed when the thread has ended
	home int           // descriptor of the host's network namespace
	lost bool          // the thread could not return home; only the thread touches it
}

type job struct {
	fn   func() error
	done chan error
}

// newQueue starts the queue in the calling thread's network namespace.
func newQueue() (*queue, error) {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the host's network namespace: %w", err)
	}
	q := &queue{jobs: make(chan job), quit: make(chan struct{}), done: make(chan struct{}), home: home}
	go q.run()
	return q, nil
}

// do runs fn on the queue's thread. A job that has begun is waited for: each of
// its kernel calls is bounded, and half-done work would be unknown work.
func (q *queue) do(ctx context.Context, fn func() error) error {
	j := job{fn, make(chan error, 1)}
	select {
	case q.jobs <- j:
		return <-j.done
	case <-q.quit:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the network queue: %w", context.Cause(ctx))
	}
}

// stop ends the thread and waits for it.
func (q *queue) stop() {
	close(q.quit)
	<-q.done
	unix.Close(q.home)
}

// run serves jobs. The thread is never given back: the goroutine ends locked. On the
// process's first thread, which does not end so, it waits for one that has another.
func (q *queue) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		go q.run()
		<-q.done
		runtime.UnlockOSThread()
		return
	}
	q.lost = false
	entered := unix.Setns(q.home, unix.CLONE_NEWNET)
	for {
		select {
		case <-q.quit:
			close(q.done)
			return
		case j := <-q.jobs:
			if entered != nil {
				j.done <- fmt.Errorf("cannot enter the host's network namespace: %w", entered)
				continue
			}
			j.done <- j.fn()
			if q.lost {
				go q.run()
				return
			}
		}
	}
}

// inside opens a netlink socket in the network namespace ns. It stays there when
// the thread comes back. To be called from a job.
func (q *queue) inside(ns int) (*socket, error) {
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("cannot enter the pod's network namespace: %w", err)
	}
	sock, err := openSocket(unix.NETLINK_ROUTE)
	if e := unix.Setns(q.home, unix.CLONE_NEWNET); e != nil {
		q.lost = true // the thread is thrown away after this job
		if sock != nil {
			sock.close()
		}
		return nil, fmt.Errorf("cannot return to the host's network namespace: %w", e)
	}
	return sock, err
}

// newHandle opens a handle in the calling thread's network namespace.
func newHandle() (*netlink.Handle, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open netlink socket: %w", err)
	}
	if err := handle.SetSocketTimeout(kernelTimeout); err != nil {
		handle.Close()
		return nil, fmt.Errorf("cannot bound netlink socket: %w", err)
	}
	return handle, nil
}
