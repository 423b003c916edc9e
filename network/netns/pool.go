package netns

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Pool has a few sets of namespaces ready: making one takes a millisecond with
// its link, most of it in the kernel, which a pod need not wait for. What is ready
// has no name and no owner; it ends with the process. The zero Pool has none,
// and New then makes what it gives.
type Pool struct {
	// Size is how many are kept ready.
	Size int
	// Sysctls are those of net.* that nearly every pod has.
	Sysctls map[string]string
	// NewID gives each set the id of its pod. Connect makes what that pod's link
	// consists of in a network namespace, the set's Link; it may make nothing.
	NewID   func() string
	Connect func(ctx context.Context, id string, netns int) (io.Closer, error)

	mu      sync.Mutex
	ready   []*Set
	filling bool
	closed  bool
	fillers sync.WaitGroup
}

// Take gives a set that is made ahead, for a pod with these options and the set's ID,
// if there is one that will do; else nil. Settle makes it the pod's. Whoever took one
// calls Fill.
func (p *Pool) Take(opts Options) *Set {
	if !p.fits(opts) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) == 0 {
		return nil
	}
	set := p.ready[0] // the oldest, whose link is up for longest
	p.ready = p.ready[1:]
	return set
}

// Settle sets what of the options is a pod's own.
func (p *Pool) Settle(set *Set, opts Options) error {
	if err := opts.check(); err != nil {
		return err
	}
	opts.Sysctls = p.unset(opts.Sysctls)
	return set.settle(opts, settle)
}

// fits says whether what is ready will do. Sysctls of net.* have to be there first: a
// link takes over what they are when it is made.
func (p *Pool) fits(opts Options) bool {
	if opts.NoNet || !opts.IPC || !opts.UTS || opts.Owner != 0 {
		return false
	}
	for key, value := range p.Sysctls {
		if opts.Sysctls[key] != value {
			return false
		}
	}
	for key := range p.unset(opts.Sysctls) {
		if namespaceOf(sysctlPath(key)) == "net" {
			return false
		}
	}
	return true
}

// unset are the sysctls that what is ready does not have.
func (p *Pool) unset(sysctls map[string]string) map[string]string {
	rest := maps.Clone(sysctls)
	maps.DeleteFunc(rest, func(key, _ string) bool { _, set := p.Sysctls[key]; return set })
	return rest
}

// Fill has the pool made full in the background. Call it when a pod need not wait for
// anything any more: on a small machine making the next one's holds this one up.
func (p *Pool) Fill() { p.fillBelow(p.Size) }

// FillHalf is Fill, but only if half of it is gone.
func (p *Pool) FillHalf() { p.fillBelow(p.Size/2 + 1) }

func (p *Pool) fillBelow(low int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filling || p.closed || len(p.ready) >= low {
		return
	}
	p.filling = true
	p.fillers.Add(1)
	go p.fill()
}

// fill makes sets, one at a time, until there are enough.
func (p *Pool) fill() {
	defer p.fillers.Done()
	for {
		set, err := p.make(context.Background())
		p.mu.Lock()
		if err == nil && !p.closed {
			p.ready = append(p.ready, set)
			set = nil
		}
		more := err == nil && !p.closed && len(p.ready) < p.Size
		p.filling = more
		p.mu.Unlock()
		if set != nil {
			set.Close()
		}
		if err != nil {
			slog.Warn("cannot make a pod's namespaces and link ahead", "err", err) // a pod that needs them says so
		}
		if !more {
			return
		}
	}
}

func (p *Pool) make(ctx context.Context) (*Set, error) {
	set, err := New(ctx, Options{IPC: true, UTS: true, Sysctls: p.Sysctls})
	if err != nil {
		return nil, err
	}
	set.ID = p.NewID()
	if set.Link, err = p.Connect(ctx, set.ID, int(set.Net.Fd())); err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

// Close drops what is ready and waits for what is being made.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	ready := p.ready
	p.ready = nil
	p.mu.Unlock()
	p.fillers.Wait()
	for _, set := range ready {
		set.Close()
	}
}

// Furnish does what New does in namespaces that others made: lo up, hostname and
// sysctls set.
func (s *Set) Furnish(opts Options) error {
	if err := opts.check(); err != nil {
		return err
	}
	return s.settle(opts, furnish)
}

// settle runs do inside the namespaces of the set.
func (s *Set) settle(opts Options, do func(Options) error) error {
	done := make(chan error, 1)
	onOwnThread(func() {
		for _, ns := range []struct {
			file *os.File
			kind int
		}{{s.Net, unix.CLONE_NEWNET}, {s.IPC, unix.CLONE_NEWIPC}, {s.UTS, unix.CLONE_NEWUTS}} {
			if ns.file == nil {
				continue
			}
			if err := unix.Setns(int(ns.file.Fd()), ns.kind); err != nil {
				done <- fmt.Errorf("cannot enter pod namespaces: %w", err)
				return
			}
		}
		done <- do(opts)
	})
	return <-done
}
