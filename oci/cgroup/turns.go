package cgroup

import (
	"context"
	"fmt"
	"sync"
)

// Who changes a group's limits has its turn alone: an Update, so that it can take back
// its own, and systemd, which writes the limits that it was told of and would undo an
// Update meanwhile.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // by path; closed at the turn's end
}

// take waits for the turn at that group, as long as ctx. The caller ends it with done.
func (t *turns) take(ctx context.Context, cgroupPath string) (done func(), err error) {
	for ctx.Err() == nil {
		t.mu.Lock()
		other := t.taken[cgroupPath]
		if other == nil {
			defer t.mu.Unlock()
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			own := make(chan struct{})
			t.taken[cgroupPath] = own
			return func() { t.end(cgroupPath, own) }, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("another change of its limits takes long: %w", ctx.Err())
}

func (t *turns) end(cgroupPath string, own chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, cgroupPath)
	close(own)
}
