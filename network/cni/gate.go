package cni

import (
	"context"
	"fmt"
	"sync"
)

// A gate lets many pass at a time, or is closed by one.
type gate struct {
	mu     sync.Mutex
	inside int
	closed chan struct{} // closed itself as the gate opens; nil: it is open
}

// enter waits until the gate is open.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		closed := g.closed
		if closed == nil {
			g.inside++
		}
		g.mu.Unlock()
		if closed == nil {
			return nil
		}
		select {
		case <-closed:
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the end of the plugins' GC: %w", context.Cause(ctx))
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
}

// close closes it if nobody is inside.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside > 0 {
		return false
	}
	g.closed = make(chan struct{})
	return true
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.closed)
	g.closed = nil
}
