package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutOfDescriptors: a keeper that has no descriptor for the next daemon waits for
// one, and serves one that comes with the last: what it keeps is not lost.
func TestOutOfDescriptors(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("c", "/bin/sh", "-c", "read x < "+gate.Name()+"; exit 5")
	keeper := f.PID()
	process, err := unix.PidfdOpen(keeper, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	f.limit(3) // what is open stays
	f.Client.Close()
	f.until("the keeper tells", func() bool {
		log, err := os.ReadFile(filepath.Join(f.dir, "keeper.log"))
		return err == nil && strings.Contains(string(log), "cannot accept") || polled(uintptr(process), unix.POLLIN)
	})
	if polled(uintptr(process), unix.POLLIN) {
		f.dial() // another one, for the test's end
		t.Fatal("the keeper has ended")
	}
	f.limit(f.lowest(keeper) + 1) // one is left
	f.dial()
	if f.PID() != keeper {
		t.Fatal("there is another keeper")
	}
	f.limit(1024)
	if list := f.Items(); len(list) != 1 || list[0].FDs[FDPid] == nil || list[0].FDs[FDStdout] == nil {
		t.Errorf("it tells of %+v", list)
	}
	gate.WriteString("go\n")
	if e := f.wait("c"); e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
}

// limit sets how many descriptors the keeper may have.
func (f *fixture) limit(n int) {
	f.t.Helper()
	if err := unix.Prlimit(f.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: 1024}, nil); err != nil {
		f.t.Fatal(err)
	}
}

// lowest is the lowest descriptor that a process does not have.
func (f *fixture) lowest(pid int) (fd int) {
	for ; ; fd++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err != nil {
			return fd
		}
	}
}

// TestAnswerThatCannotBeTaken: a daemon that has no descriptor for the process that
// the keeper made can ask for it again, once it has some.
func TestAnswerThatCannotBeTaken(t *testing.T) {
	f := start(t)
	keeper := f.PID()
	var err error
	for !Lost(err) { // the last descriptor may have been the answer's
		if err != nil {
			t.Fatal(err)
		}
		f.Release(context.Background(), "c")
		err = f.spawnWithFew("c")
	}
	f.run("c", "/bin/true")
	if f.PID() != keeper {
		t.Error("there is another keeper")
	}
}

// spawnWithFew starts a container, and takes every descriptor that is free as soon as
// the request is on its way.
func (f *fixture) spawnWithFew(id string) error {
	f.t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer f.few()()
	l, done := f.current(), make(chan error, 1)
	go func() {
		_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: id, Kind: KindContainer}, Program: command("/bin/true"),
			FDs: map[string]*os.File{"stdin": null, "stdout": null, "stderr": null}})
		done <- err
	}()
	var taken []int
	for asked := false; ; {
		select {
		case <-l.dead:
			closeAll(taken)
			return <-done
		case err := <-done:
			closeAll(taken)
			return err
		default:
		}
		l.mu.Lock()
		asked = asked || len(l.pending) > 0
		l.mu.Unlock()
		if !asked {
			continue
		}
		if fd, err := dup(0); err == nil {
			taken = append(taken, fd)
		}
	}
}

// few lets this process have a few descriptors more than now, until undone.
func (f *fixture) few() (undo func()) {
	f.t.Helper()
	var was syscall.Rlimit
	err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &was)
	if err == nil {
		err = syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(f.lowest(os.Getpid()) + 8), Max: was.Max})
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return func() { syscall.Setrlimit(unix.RLIMIT_NOFILE, &was) }
}
