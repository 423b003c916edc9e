package sandbox

import "context"

// A lock is a mutex whose waiters go away with their context.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// acquire takes the lock; the error is ctx's cause.
func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lock) release() { <-l }
