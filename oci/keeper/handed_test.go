package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillsAreHandedOver: an upgrade falls between the end of two processes, whose
// groups are gone, and its being noted: of one the count was read, of the other it is
// what is left of the slice's.
func TestKillsAreHandedOver(t *testing.T) {
	dir := t.TempDir()
	say := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) int {
		t.Helper()
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	say("slice", "oom 5\noom_kill 5\n") // of before
	k := &keeper{items: map[string]*held{}, slices: map[uint64]uint64{}, peer: -1}
	for _, id := range []string{"read", "gone"} {
		process := exec.Command("/bin/sleep", "1000")
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		pidfd, err := unix.PidfdOpen(process.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		say(id, "oom 0\noom_kill 0\n")
		h := k.hold(Item{ID: id, Kind: KindContainer, PID: process.Process.Pid, Names: []string{FDPid, FDKills, FDSliceKills}},
			[]int{pidfd, open(id), open("slice")})
		k.items[id] = h
		k.beginCount(h)
		unix.Kill(h.PID, unix.SIGKILL)
	}
	say("slice", "oom 7\noom_kill 7\n")
	say("read", "oom 1\noom_kill 1\n")
	k.countKills(k.items["read"])
	say("read", "")
	say("gone", "")

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k.peer = pair[0]
	state, _ := k.handover(&message{}, k.all())
	file, err := writeHandover(state)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := dup(int(file.Fd()))
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	if state, err = readHandover(fd); err != nil {
		t.Fatal(err)
	}
	next := &keeper{items: map[string]*held{}, strays: map[*waiter]bool{}, slices: map[uint64]uint64{}, peer: -1}
	resumed := make(chan struct{})
	go func() { next.resume(state); close(resumed) }()
	c, err := newConn(pair[1], maxMessage, maxRights)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.file.SetReadDeadline(time.Now().Add(20 * time.Second))
	told := map[string]bool{}
	for len(told) < 2 {
		m, _, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Verb != verbExit {
			continue
		}
		told[m.Item.ID] = true
		if n := m.Item.Exit.Kills; n == nil || *n != 1 {
			t.Errorf("%s: wanted 1 kill, there are %s", m.Item.ID, text(n))
		}
	}
	unix.Shutdown(pair[1], unix.SHUT_RDWR)
	<-resumed
	for _, h := range next.all() {
		h.close()
	}
	unix.Close(pair[1])
}

// TestTracedProcessOfAnUpgrade: a process that ended while somebody traced it is
// reaped once that one lets go, by the keeper's next build or the one after it, also
// when nobody keeps it any more, as with every command.
func TestTracedProcessOfAnUpgrade(t *testing.T) {
	for _, c := range []struct {
		name   string
		kept   bool
		builds []string
	}{{"kept", true, []string{"other"}}, {"not kept", false, []string{"other", "next"}}} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t)
			f.endTraced(func() {
				if !c.kept {
					f.Release(t.Context(), "c")
				}
				for _, build := range c.builds {
					f.redial(build, os.Executable)
					f.await(build)
				}
			})
		})
	}
}
