package snapshot

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// groupSync syncs a whole file system, for many callers at once: everybody who
// comes while one syncfs(2) is under way shares the next one. One syncfs for
// some layers is much cheaper than an fsync for each of their files, and since
// Linux 5.8 it reports errors of writeback.
type groupSync struct {
	dir *os.File

	mu      sync.Mutex // guards what follows
	failed  int        // syncs that failed
	running bool
	next    *syncRound // not started yet; nil when nobody waits
}

type syncRound struct {
	done chan struct{}
	err  error // valid once done is closed
}

func newGroupSync(dir string) (*groupSync, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open layer directory: %w", err)
	}
	return &groupSync{dir: d}, nil
}

func (g *groupSync) close() error { return g.dir.Close() }

// wait returns once everything that was written before the call is on disk.
// syncfs cannot be interrupted: when ctx ends, wait returns and the sync goes on.
func (g *groupSync) wait(ctx context.Context) error {
	round := g.join()
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failures counts the syncs that failed. The kernel tells of data that it could not
// write once, to whoever syncs first: what was being written when the count rose is
// not whole, whatever a later sync says.
func (g *groupSync) failures() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

func (g *groupSync) join() *syncRound {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &syncRound{done: make(chan struct{})}
	}
	if !g.running {
		g.running = true
		go g.run()
	}
	return g.next
}

// run syncs until nobody waits any more.
func (g *groupSync) run() {
	for {
		g.mu.Lock()
		round := g.next
		g.next = nil
		g.running = round != nil
		g.mu.Unlock()
		if round == nil {
			return
		}
		if round.err = unix.Syncfs(int(g.dir.Fd())); round.err != nil {
			g.mu.Lock()
			g.failed++
			g.mu.Unlock()
		}
		close(round.done)
	}
}
