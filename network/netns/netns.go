// Package netns makes the namespaces that the containers of a pod share
// (network, IPC, UTS), pins them and runs code inside one.
//
// A namespace is held by descriptors alone: no process lives in it until the
// first container does. A thread that changed namespace is never given back to
// the Go scheduler: its goroutine stays locked to it and ends, and the runtime
// ends the thread.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Options says which namespaces a pod has and what is in them from the start.
type Options struct {
	// NoNet makes no network namespace: the pod is on the node's network.
	NoNet bool
	// IPC and UTS ask for these namespaces too.
	IPC, UTS bool
	// Hostname is set in the new UTS namespace; empty keeps the host's name.
	// At most 64 bytes (sethostname(2)).
	Hostname string
	// Sysctls are written from inside before anything else is there. Each has to
	// belong to a namespace that is made; SplitSysctls separates those that have
	// to wait for the pod's interface.
	Sysctls map[string]string
	// Owner is the host's id of the root of the user namespace that the namespaces
	// belong to, 0 for the host's. Only he may write all of their sysctls.
	Owner int
}

// A Set holds a pod's namespaces. The files are the caller's, close-on-exec, and
// keep the namespaces alive; those not asked for are nil.
type Set struct {
	Net, IPC, UTS *os.File
	// ID and Link are a set's that a Pool made: the id of the pod that it is for, and
	// what Connect made in Net, or nil. That keeps the namespace alive, too.
	ID   string
	Link io.Closer
}

// Close drops the references. The kernel takes a network namespace down, with
// the interfaces in it, some 10 ms after its last reference is gone.
func (s *Set) Close() error {
	var errs []error
	if s.Link != nil {
		errs = append(errs, s.Link.Close())
	}
	for _, f := range []*os.File{s.Net, s.IPC, s.UTS} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Files are those of the set by name: net, ipc, uts. They stay the set's.
func (s *Set) Files() map[string]*os.File {
	files := map[string]*os.File{"net": s.Net, "ipc": s.IPC, "uts": s.UTS}
	maps.DeleteFunc(files, func(_ string, f *os.File) bool { return f == nil })
	return files
}

// New makes the namespaces, with lo up, hostname and sysctls set. When ctx ends
// first it returns the cause; what is still made then is dropped at once.
func New(ctx context.Context, opts Options) (*Set, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	type result struct {
		set *Set
		err error
	}
	done := make(chan result)
	onOwnThread(func() {
		set, err := build(opts)
		select {
		case done <- result{set, err}:
		case <-ctx.Done():
			if set != nil {
				set.Close()
			}
		}
	})
	select {
	case r := <-done:
		return r.set, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot make pod namespaces: %w", context.Cause(ctx))
	}
}

// Do runs fn on a thread inside the network namespace fd and returns its error.
// The thread is thrown away. Goroutines that fn starts run outside.
func Do(fd int, fn func() error) error {
	done := make(chan error)
	onOwnThread(func() {
		err := errors.New("cannot finish in network namespace: the function ended its goroutine")
		defer func() { done <- err }() // also after runtime.Goexit
		if e := unix.Setns(fd, unix.CLONE_NEWNET); e != nil {
			err = fmt.Errorf("cannot enter network namespace: %w", e)
			return
		}
		err = fn()
	})
	return <-done
}

// onOwnThread starts fn on a thread that ends with it. It is never the process's
// main thread: that one cannot end, would keep the namespace for ever, and
// /proc/self/ns would show that namespace as the whole process's.
func onOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// While this goroutine occupies the main thread another one gets another.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			fn()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}

// build makes the set on the calling thread, which is spoiled afterwards.
func build(opts Options) (*Set, error) {
	if err := unix.Unshare(opts.flags()); err != nil {
		return nil, fmt.Errorf("cannot make pod namespaces: %w", err)
	}
	set, err := open(opts)
	if err != nil {
		return nil, err
	}
	if err := furnish(opts); err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

func (o Options) flags() int {
	flags := 0
	if !o.NoNet {
		flags |= unix.CLONE_NEWNET
	}
	if o.IPC {
		flags |= unix.CLONE_NEWIPC
	}
	if o.UTS {
		flags |= unix.CLONE_NEWUTS
	}
	return flags
}

func (o Options) check() error {
	if o.Hostname != "" && !o.UTS {
		return fmt.Errorf("cannot set hostname %q: the pod has no UTS namespace of its own", o.Hostname)
	}
	if len(o.Hostname) > 64 {
		return fmt.Errorf("cannot set hostname %q: it has %d bytes, at most 64 are allowed", o.Hostname, len(o.Hostname))
	}
	for key := range o.Sysctls {
		if err := checkSysctl(key, o); err != nil {
			return err
		}
	}
	return nil
}

// open opens the calling thread's namespaces.
func open(opts Options) (*Set, error) {
	set := &Set{}
	wanted := []struct {
		name string
		file **os.File
		want bool
	}{{"net", &set.Net, !opts.NoNet}, {"ipc", &set.IPC, opts.IPC}, {"uts", &set.UTS, opts.UTS}}
	for _, w := range wanted {
		if !w.want {
			continue
		}
		// thread-self, not self: only this thread is in the new namespaces.
		fd, err := unix.Open("/proc/thread-self/ns/"+w.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			set.Close()
			return nil, fmt.Errorf("cannot open new %s namespace: %w", w.name, err)
		}
		*w.file = os.NewFile(uintptr(fd), "ns:"+w.name)
	}
	return set, nil
}

// furnish sets what a pod finds in its namespaces, from inside them.
func furnish(opts Options) error {
	if !opts.NoNet {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return settle(opts)
}

// settle sets what is a pod's own, in the calling thread's namespaces.
func settle(opts Options) error {
	if opts.Hostname != "" {
		if err := unix.Sethostname([]byte(opts.Hostname)); err != nil {
			return fmt.Errorf("cannot set hostname %q: %w", opts.Hostname, err)
		}
	}
	if opts.Owner != 0 && len(opts.Sysctls) > 0 {
		if err := becomeOwner(opts.Owner); err != nil {
			return err
		}
	}
	return writeSysctls(opts.Sysctls)
}

// becomeOwner gives the calling thread, which nobody uses afterwards, the user
// who may write a user namespace's IPC sysctls, whatever else he may do; the
// network's take CAP_NET_ADMIN, which it keeps (ipc/ipc_sysctl.c,
// net/sysctl_net.c).
func becomeOwner(uid int) error {
	const noSetuidFixup = 1 << 2
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot keep capabilities: %w", err)
	}
	// Not through Go's own, which changes all threads.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return fmt.Errorf("cannot become user %d: %w", uid, errno)
	}
	return nil
}

// loopbackUp brings lo up by ioctl, which needs no netlink socket; the kernel
// then gives it 127.0.0.1/8 and ::1/128 by itself.
func loopbackUp() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	defer unix.Close(sock)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	return nil
}
