package keeper

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGone: a zombie is there, and its status is seen without taking it away; what
// was reaped is gone, on every kernel.
func TestGone(t *testing.T) {
	child := exec.Command("/bin/sh", "-c", "exit 7")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWaiter(pidfd, child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer w.f.Close()
	if err := w.ended(); err != nil {
		t.Fatal(err)
	}
	if status, err := w.zombieStatus(); err != nil || status.ExitStatus() != 7 || w.gone() {
		t.Errorf("a zombie: status %v, error %v, gone %t", status, err, w.gone())
	}
	if _, err := syscall.Wait4(child.Process.Pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	if status, err := w.zombieStatus(); err == nil || !w.gone() {
		t.Errorf("reaped: status %v, error %v, gone %t", status, err, w.gone())
	}
}

// TestTracedProcess: a zombie that somebody traces is not its parent's to reap yet
// (wait_consider_task in kernel/exit.c), and how it ended is known all the same.
func TestTracedProcess(t *testing.T) {
	if e := start(t).endTraced(func() {}); e.Code != 137 || e.Signal != 9 || e.Unknown != "" {
		t.Errorf("exit %+v", e)
	}
}

// endTraced says how a process ended that was traced, and has the tracer let go once
// its end was told and then was called.
func (f *fixture) endTraced(then func()) Exit {
	f.t.Helper()
	pid := f.run("c", "/bin/sleep", "60")
	runtime.LockOSThread() // which is the tracer
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		f.t.Fatal(err)
	}
	unix.Kill(pid, unix.SIGKILL)
	e := f.wait("c")
	then()
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		f.t.Error(err)
	}
	f.until("the reaping", func() bool { return len(zombies(f.PID())) == 0 })
	return e
}
