package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// A stage lets the demo use the tests' harness, leak check included, without
// being a test.
type stage struct {
	testing.TB // only the methods below are called
	dir        string
	cleanups   []func()
	failed     bool
}

func (s *stage) title(text string) { fmt.Printf("\n▸ %s\n", text) }

// end runs the clean-ups, whose last one is the leak check, and says how it went.
func (s *stage) end() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	os.RemoveAll(s.dir)
	if s.failed {
		fmt.Println("\nThe demo failed.")
		os.Exit(1)
	}
	fmt.Println("  no process, mount, namespace, link, route, rule, cgroup or file of it is left")
}

func (s *stage) Helper()                  {}
func (s *stage) Name() string             { return "demo" }
func (s *stage) Failed() bool             { return s.failed }
func (s *stage) TempDir() string          { return s.dir }
func (s *stage) Context() context.Context { return context.Background() }
func (s *stage) Cleanup(f func())         { s.cleanups = append(s.cleanups, f) }
func (s *stage) Log(args ...any)          {}
func (s *stage) Logf(string, ...any)      {}

func (s *stage) Deadline() (time.Time, bool) { return time.Time{}, false }

func (s *stage) Error(args ...any) {
	s.failed = true
	fmt.Fprintln(os.Stderr, args...)
}

func (s *stage) Errorf(format string, args ...any) {
	s.failed = true
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (s *stage) Fatal(args ...any) {
	s.Error(args...)
	s.FailNow()
}

func (s *stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	s.FailNow()
}

// FailNow ends the demo, clean-ups included.
func (s *stage) FailNow() {
	s.failed = true
	s.end()
}
