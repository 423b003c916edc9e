package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// faultsVar names a directory, for tests only. The daemon writes the name of
// every fault point that it passes to its file "passed"; where it finds a file
// named like the point, it removes it and does what it says:
//
//	error         the step fails
//	panic         the step's code is wrong
//	delay 100ms   the step takes longer
//	kill          the daemon dies, as of kill -9
//	kill keeper   the keeper does
const faultsVar = "CRIBOX_FAULTS"

// faults is nil unless this is a test.
func (d *daemon) faults() func(string) error {
	dir := os.Getenv(faultsVar)
	if dir == "" {
		return nil
	}
	slog.Warn("fault points are on, which is for tests only", "variable", faultsVar, "dir", dir)
	return func(name string) error { return d.fault(dir, name) }
}

func (d *daemon) fault(dir, name string) error {
	if f, err := os.OpenFile(filepath.Join(dir, "passed"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintln(f, name)
		f.Close()
	}
	path := filepath.Join(dir, name)
	action, err := os.ReadFile(path)
	if err != nil || os.Remove(path) != nil { // no fault here, or somebody else's
		return nil
	}
	return d.suffer(name, strings.TrimSpace(string(action)))
}

func (d *daemon) suffer(name, action string) error {
	verb, what, _ := strings.Cut(action, " ")
	switch {
	case verb == "panic":
		panic("fault at " + name)
	case verb == "delay":
		wait, err := time.ParseDuration(what)
		<-time.After(wait)
		return err
	case action == "kill keeper":
		return unix.Kill(d.keeper.PID(), unix.SIGKILL)
	case verb == "kill":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way
	}
	return fmt.Errorf("fault at %s", name)
}
