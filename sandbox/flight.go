package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// retryBound is how long work whose client has gone away is kept for the
// client's retry.
const retryBound = 30 * time.Second

var errAbandoned = fmt.Errorf("nobody asked for it again within %v", retryBound)

// flights makes creating idempotent: requests with one key share one flight,
// and a retry finds what an earlier request began or finished.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

type flight struct {
	request any // what was asked for
	done    chan struct{}
	cancel  context.CancelCauseFunc
	id      string
	err     error
	waiters int
	timer   *time.Timer // runs while there are no waiters
}

// join waits for the flight of key, beginning it with do if there is none. same
// tells whether a request is the one in flight. The work does not end with ctx:
// when the last client is gone, it goes on for retryBound, and is then cancelled
// or, if it was finished, taken back with drop, unless somebody has claimed it.
// A retry of what was finished begins anew: do finds it, if it is still there.
func (f *flights) join(ctx context.Context, key string, request any, work flightWork) (string, error) {
	f.mu.Lock()
	if fl := f.byKey[key]; fl != nil && fl.finished() {
		f.settle(key, fl)
	}
	fl := f.byKey[key]
	if fl == nil {
		fl = f.begin(ctx, key, request, work)
	} else if err := work.same(fl.request); err != nil {
		f.mu.Unlock()
		return "", err
	}
	fl.waiters++
	if fl.timer != nil {
		fl.timer.Stop()
		fl.timer = nil
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
		f.land(key, fl)
		return fl.id, fl.err
	case <-ctx.Done():
		f.leave(key, fl, work)
		return "", context.Cause(ctx)
	}
}

// claim keeps what the flight of key has made, for somebody uses it: a client
// whose answer was lost may find it in a list.
func (f *flights) claim(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.byKey[key]; fl != nil {
		f.settle(key, fl)
	}
}

// settle ends a flight whose work is not taken back any more. f.mu is held.
func (f *flights) settle(key string, fl *flight) {
	delete(f.byKey, key)
	if fl.timer != nil {
		fl.timer.Stop()
	}
}

func (fl *flight) finished() bool {
	select {
	case <-fl.done:
		return true
	default:
		return false
	}
}

// flightWork is what a flight does: begin it, compare it, take it back.
type flightWork struct {
	do   func(context.Context) (string, error)
	same func(request any) error
	drop func(ctx context.Context, id string) error
}

// under tells whether there is a flight of key.
func (f *flights) under(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byKey[key] != nil
}

func (f *flights) begin(ctx context.Context, key string, request any, work flightWork) *flight {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{request: request, done: make(chan struct{}), cancel: cancel}
	if f.byKey == nil {
		f.byKey = map[string]*flight{}
	}
	f.byKey[key] = fl
	go func() {
		fl.err = guarded(ctx, key, func(ctx context.Context) (err error) {
			fl.id, err = work.do(ctx)
			return err
		})
		cancel(nil)
		f.mu.Lock()
		if fl.err != nil && f.byKey[key] == fl {
			delete(f.byKey, key) // a retry begins anew
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// land ends a flight that somebody has the answer of.
func (f *flights) land(key string, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if f.byKey[key] == fl {
		delete(f.byKey, key)
	}
}

func (f *flights) leave(key string, fl *flight, work flightWork) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if fl.waiters > 0 || f.byKey[key] != fl {
		return
	}
	fl.timer = time.AfterFunc(retryBound, func() { f.abandon(key, fl, work) })
}

// abandon takes back what nobody came for.
func (f *flights) abandon(key string, fl *flight, work flightWork) {
	f.mu.Lock()
	if fl.waiters > 0 || f.byKey[key] != fl {
		f.mu.Unlock()
		return
	}
	delete(f.byKey, key)
	f.mu.Unlock()
	fl.cancel(errAbandoned)
	<-fl.done
	if fl.err != nil {
		return
	}
	if err := work.drop(context.Background(), fl.id); err != nil {
		slog.Error("cannot take back what nobody came for", "id", fl.id, "err", err)
	}
}

var errSuperseded = errors.New("a later attempt of the same pod has come")

// cancel ends the flights whose request match says so, and waits for them.
func (f *flights) cancel(ctx context.Context, match func(request any) bool) error {
	f.mu.Lock()
	var hit []*flight
	for _, fl := range f.byKey {
		if match(fl.request) {
			hit = append(hit, fl)
		}
	}
	f.mu.Unlock()
	for _, fl := range hit {
		fl.cancel(errSuperseded)
		select {
		case <-fl.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
