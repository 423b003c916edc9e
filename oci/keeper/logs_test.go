package keeper

import (
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLargeWrites(t *testing.T) {
	f := start(t)
	f.run("big", "/bin/sh", "-c", "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -n 20000 | dd bs=65536 iflag=fullblock status=none")
	if e := f.wait("big"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if n := len(f.logLines("big")); n != 20000 {
		t.Errorf("%d lines", n)
	}
}

// An unfinished line outlives the keeper that read it.
func TestStashSurvivesKeeper(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("c", "/bin/sh", "-c", "printf 'half a '; read x < "+gate.Name()+"; echo line")
	f.waitStash("c", "half a ")
	lost := f.current().dead
	unix.Kill(f.PID(), unix.SIGKILL)
	<-lost
	gate.WriteString("go\n")
	f.wait("c")
	if got := f.logLines("c"); len(got) != 1 || got[0] != "stdout F half a line" {
		t.Errorf("log %q", got)
	}
}

// waitStash waits until the unfinished line is in the stash, which the daemon has
// too.
func (f *fixture) waitStash(id, want string) {
	f.t.Helper()
	file, err := f.FD(id, FDStashOut)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		s, err := openStash(file)
		if err != nil {
			f.t.Fatal(err)
		}
		got, err := s.unlogged(nil)
		if err == nil && string(got) == want {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the stash has %q, %v", got, err)
		}
	}
}

// TestTapAfterTheEnd: who attaches to a stream that has ended is told so, as is who
// was there before, though the container lives on.
func TestTapAfterTheEnd(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("c", "/bin/sh", "-c", "exec >&- 2>&-; read x < "+gate.Name())
	for _, when := range []string{"before or after", "after"} {
		f.tapEnds("c", "attached "+when+" the end")
	}
	gate.WriteString("x\n")
	f.wait("c")
}

// tapEnds attaches to a stdout that says nothing more, and expects to be told.
func (f *fixture) tapEnds(id, what string) {
	f.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	defer read.Close()
	if _, err := f.Tap(f.t.Context(), id, map[string]*os.File{FDStdout: write}); err != nil {
		f.t.Fatal(err)
	}
	write.Close()
	read.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := read.Read(make([]byte, 1)); err != io.EOF {
		f.t.Errorf("%s: %v", what, err)
	}
}
