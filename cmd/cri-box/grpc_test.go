package main

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
)

type streamOf struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamOf) Context() context.Context { return s.ctx }

// TestStreamsWaitForRecovery: a list that is asked for too early is never an
// empty one.
func TestStreamsWaitForRecovery(t *testing.T) {
	d := &daemon{gate: make(chan struct{})}
	called := false
	handler := func(any, grpc.ServerStream) error { called = true; return nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.waitRecoveredStream(nil, streamOf{ctx: ctx}, nil, handler); !errors.Is(err, errRecovering) || called {
		t.Errorf("before recovery: %v, handled %v", err, called)
	}
	close(d.gate)
	if err := d.waitRecoveredStream(nil, streamOf{ctx: t.Context()}, nil, handler); err != nil || !called {
		t.Errorf("after recovery: %v, handled %v", err, called)
	}
}
