package keeper

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillsAreCounted: the kills in a container's control group are read at its end,
// whether a daemon is there or not.
func TestKillsAreCounted(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.counted("here", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n", "/bin/true")
	if n := f.wait("here").Kills; n == nil || *n != 3 {
		t.Errorf("%v kills, wanted 3", n)
	}
	f.counted("none", "low 0\noom 0\noom_kill 0\n", "/bin/true")
	if n := f.wait("none").Kills; n == nil || *n != 0 {
		t.Errorf("%v kills, wanted 0", n)
	}
	f.counted("unknown", "", "/bin/true") // as of a group that is gone
	if n := f.wait("unknown").Kills; n != nil {
		t.Errorf("%d kills, though there is no count", *n)
	}
	pid := f.counted("away", "low 0\noom 1\noom_kill 1\n", "/bin/sh", "-c", "read x <"+gate.Name())
	f.Close()
	if _, err := gate.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	for unix.Kill(pid, 0) == nil { // until the keeper has reaped it
		time.Sleep(time.Millisecond)
	}
	f.dial()
	for _, k := range f.Items() {
		if k.ID == "away" && (k.Exit == nil || k.Exit.Kills == nil || *k.Exit.Kills != 1) {
			t.Errorf("while the daemon was away: %+v, wanted 1 kill", k.Exit)
		}
	}
}

// TestKillsOfGroupsThatAreGone: where systemd has removed the groups, two containers
// that were killed at once have one kill of their slice's each, and a third its own.
func TestKillsOfGroupsThatAreGone(t *testing.T) {
	f := start(t)
	slice := filepath.Join(f.dir, "slice.events")
	say := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say(slice, "oom 5\noom_kill 5\n") // of before
	kill := func(pids ...int) {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	var pids []int
	for _, id := range []string{"a", "b", "c"} {
		pids = append(pids, f.counted(id, "oom 0\noom_kill 0\n", "/bin/sleep", "1000"))
	}
	for _, id := range []string{"a", "b"} {
		say(filepath.Join(f.dir, id+".events"), "")
	}
	say(filepath.Join(f.dir, "c.events"), "oom 1\noom_kill 1\n") // of a process in it
	say(slice, "oom 8\noom_kill 8\n")
	kill(pids[:2]...)
	for _, id := range []string{"a", "b"} {
		if n := f.wait(id).Kills; n == nil || *n != 1 {
			t.Errorf("%s: wanted 1 kill, there are %s", id, text(n))
		}
	}
	say(filepath.Join(f.dir, "c.events"), "")
	kill(pids[2])
	if n := f.wait("c").Kills; n == nil || *n != 1 {
		t.Errorf("c: wanted its 1 kill, there are %s", text(n))
	}
}

func text(n *uint64) string {
	if n == nil {
		return "unknown"
	}
	return strconv.FormatUint(*n, 10)
}

// counted starts argv as container id, with a file of that content as its count.
func (f *fixture) counted(id, content string, argv ...string) (pid int) {
	f.t.Helper()
	path := filepath.Join(f.dir, id+".events")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	events, err := os.Open(path)
	if err != nil {
		f.t.Fatal(err)
	}
	keep := map[string]*os.File{FDKills: events}
	if slice, err := os.Open(filepath.Join(f.dir, "slice.events")); err == nil {
		keep[FDSliceKills] = slice
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer null.Close()
	pid, err = f.Spawn(context.Background(), Spawn{Item: Item{ID: id, Kind: KindContainer}, Program: command(argv...),
		FDs: map[string]*os.File{"stdin": null, "stdout": null, "stderr": null}, Keep: keep})
	if err != nil {
		f.t.Fatal(err)
	}
	return pid
}
