package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// TestPlainKeepsAll: of several errors, such as that of a start and that of the removal
// after it, each is told.
func TestPlainKeepsAll(t *testing.T) {
	internal := func(text string) error { return status.Error(codes.Internal, text) }
	for want, err := range map[string]error{
		"started not\nremoved not":          errors.Join(internal("started not"), internal("removed not")),
		"one\ntwo\nthree":                   errors.Join(errors.New("one"), errors.Join(internal("two"), errors.New("three"))),
		"cannot do it: a and b":             fmt.Errorf("cannot do it: %w and %w", errors.New("a"), errors.New("b")),
		"the daemon's own words, and alone": fmt.Errorf("ours: %w", internal("the daemon's own words, and alone")),
	} {
		if got := plain(err, "/sock").Error(); got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
	if plain(nil, "/sock") != nil {
		t.Error("nothing wrong is an error")
	}
}
