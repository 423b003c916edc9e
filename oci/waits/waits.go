// Package waits keeps what somebody waits for right now, so that others can be
// told while the wait lasts: `cri-box why` is who asks.
package waits

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A Wait is for something that may take long, or never come.
type Wait struct {
	For   string    `json:"for"` // such as `the plugin /opt/cni/bin/bridge (ADD)`
	Next  string    `json:"next"`
	Since time.Time `json:"since"`
}

// A Place keeps the waits of one pod or container. The zero Place has none.
type Place struct {
	mu  sync.Mutex
	now []*Wait // the oldest first
}

// Now is the wait that has lasted longest, nil if there is none.
func (p *Place) Now() *Wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.now) == 0 {
		return nil
	}
	return p.now[0]
}

type key struct{}

// At returns a context whose waits are kept in p.
func At(ctx context.Context, p *Place) context.Context { return context.WithValue(ctx, key{}, p) }

// For keeps a wait until over is called. next says what a person can do if it
// lasts. Without a place it does nothing.
func For(ctx context.Context, what, next string) (over func()) {
	p, _ := ctx.Value(key{}).(*Place)
	if p == nil {
		return func() {}
	}
	w := &Wait{what, next, time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = append(p.now, w)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now = slices.DeleteFunc(p.now, func(x *Wait) bool { return x == w })
	}
}
