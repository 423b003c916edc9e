package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
