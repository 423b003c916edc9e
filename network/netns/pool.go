package netns

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Pool has a few sets of namespaces ready: making one takes half a millisecond,
// most of it in the kernel, which a pod need not wait for. What is ready has no
// name and no owner; it ends with the process. The zero Pool has none, and New
// then makes what it gives.
type Pool struct {
	// Size is how many are kept ready.
	Size int

	mu      sync.Mutex
	ready   []*Set
	filling bool
	closed  bool
	fillers sync.WaitGroup
}

// New is as the function New; a pod with all three namespaces gets them from the
// pool, if there are any.
func (p *Pool) New(ctx context.Context, opts Options) (*Set, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.NoNet || !opts.IPC || !opts.UTS {
		return New(ctx, opts)
	}
	set := p.take()
	if set == nil {
		return New(ctx, opts)
	}
	if err := set.settle(opts, settle); err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

// take gives a set, nil if none is ready, and has the next one made.
func (p *Pool) take() *Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set *Set
	if n := len(p.ready); n > 0 {
		set, p.ready = p.ready[n-1], p.ready[:n-1]
	}
	p.fillLocked()
	return set
}

// Fill has the pool made full in the background.
func (p *Pool) Fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fillLocked()
}

func (p *Pool) fillLocked() {
	if p.filling || p.closed || len(p.ready) >= p.Size {
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
		set, err := New(context.Background(), Options{IPC: true, UTS: true})
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
			slog.Warn("cannot make namespaces ahead", "err", err) // a pod that needs them says so
		}
		if !more {
			return
		}
	}
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
