package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

// A daemon is a runtime that the benchmark starts itself: in network and mount
// namespaces of its own, and in a cgroup of its own that counts the processor
// time of all that it starts but containers.
type daemon struct {
	dir  string // its root, configuration and log
	run  string // its state and socket, in memory
	argv []string
	env  []string
	net  *harness.Net
	cmd  *exec.Cmd
	done chan struct{}
	// mounts is its mount namespace, which the next one enters: what a runtime pins
	// there, a restart must find.
	mounts *os.File
}

// cpuacct is where cgroup v1 counts processor time; without it the processes'
// own times are added up.
const cpuacct = "/sys/fs/cgroup/cpuacct"

func (d *daemon) group() string { return filepath.Join(cpuacct, "bench-"+filepath.Base(d.dir)) }

// start starts it; it is ready when its socket answers.
func (d *daemon) start() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The shell joins the group before it becomes the daemon.
	script, mounts := `[ ! -d "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@"`, uintptr(syscall.CLONE_NEWNS)
	if d.mounts != nil {
		script, mounts = `[ ! -d "$0" ] || echo $$ > "$0/cgroup.procs"; exec nsenter --mount=/proc/self/fd/3 "$@"`, 0
	}
	d.cmd = exec.Command("/bin/sh", append([]string{"-c", script, d.group()}, d.argv...)...)
	d.cmd.Env = append(os.Environ(), d.env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: mounts, Setpgid: true}
	if d.mounts != nil {
		d.cmd.ExtraFiles = []*os.File{d.mounts}
	}
	if _, err := os.Stat(cpuacct); err == nil {
		if err := os.MkdirAll(d.group(), 0o755); err != nil {
			return err
		}
	}
	if err := d.net.Do(d.cmd.Start); err != nil {
		return fmt.Errorf("cannot start %s: %w", d.argv[0], err)
	}
	if d.mounts == nil {
		if d.mounts, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", d.cmd.Process.Pid)); err != nil {
			return errors.Join(fmt.Errorf("cannot keep its mount namespace: %w", err), d.cmd.Process.Kill())
		}
	}
	d.done = make(chan struct{})
	go func() {
		d.cmd.Wait() // its log says why
		close(d.done)
	}()
	return nil
}

// end ends the daemon by that signal and waits for it.
func (d *daemon) end(sig syscall.Signal) error {
	d.cmd.Process.Signal(sig)
	select {
	case <-d.done:
		return nil
	case <-time.After(20 * time.Second):
		d.cmd.Process.Kill()
		return fmt.Errorf("%s does not end of %v", d.argv[0], sig)
	}
}

// stop ends the daemon and everything that it left running, and removes its files.
func (d *daemon) stop() error {
	err := d.end(syscall.SIGTERM)
	for range 50 {
		pids, _ := os.ReadFile(filepath.Join(d.group(), "cgroup.procs"))
		if len(pids) == 0 {
			break
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			if n, err := strconv.Atoi(pid); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Remove(d.group()) // it may not be there
	d.mounts.Close()     // of nil too
	return errors.Join(err, os.RemoveAll(d.run), os.RemoveAll(d.dir))
}

// logTail is the end of a started daemon's log, as an error.
func (e *endpoint) logTail() error {
	if e.daemon == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(e.daemon.dir, "log"))
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("the end of %s's log:\n%s", e.name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

// cpu is the processor time of the runtime's processes so far, in seconds.
func (e *endpoint) cpu() float64 {
	if e.daemon != nil {
		if b, err := os.ReadFile(filepath.Join(e.daemon.group(), "cpuacct.usage")); err == nil {
			ns, _ := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
			return ns / 1e9
		}
	}
	ticks := 0.0
	for _, dir := range e.own() {
		b, _ := os.ReadFile(filepath.Join(dir, "stat"))
		_, rest, _ := strings.Cut(string(b), ") ")
		// proc_pid_stat(5): utime, stime and those of children that ended.
		for _, field := range strings.Fields(rest + " 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0")[11:15] {
			n, _ := strconv.ParseFloat(field, 64)
			ticks += n
		}
	}
	return ticks / 100
}

// answers waits until the endpoint answers Version.
func (e *endpoint) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if err := e.hello(ctx); err == nil {
			return nil
		}
		select {
		case <-e.daemon.done:
			return fmt.Errorf("%s ended: see %s/log", e.name, e.daemon.dir)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: see %s/log", e.name, e.daemon.dir)
		case <-time.After(time.Millisecond):
		}
	}
}
