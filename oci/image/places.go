package image

import (
	"context"
	"sync"
)

// places bound the layers that are under way. A registry that has none has a place in
// any case: others that send slowly hold up their own only.
type places struct {
	limit int

	mu    sync.Mutex
	taken map[string]int // by registry, of those that have some
	all   int
	freed chan struct{} // closed, and made anew, when a place is
}

func newPlaces(limit int) *places {
	return &places{limit: limit, taken: map[string]int{}, freed: make(chan struct{})}
}

// take waits for a place.
func (p *places) take(ctx context.Context, registry string) error {
	for {
		p.mu.Lock()
		free, freed := p.all < p.limit || p.taken[registry] == 0, p.freed
		if free {
			p.all++
			p.taken[registry]++
		}
		p.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *places) give(registry string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.taken[registry]--; p.taken[registry] == 0 {
		delete(p.taken, registry)
	}
	close(p.freed)
	p.freed = make(chan struct{})
}
