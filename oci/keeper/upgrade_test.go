package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// redial has another daemon, of that build, take over.
func (f *fixture) redial(build string, binary func() (string, error)) {
	f.t.Helper()
	f.Client.Close()
	c, err := Dial(context.Background(), Config{Socket: filepath.Join(f.dir, "k.sock"), LogPath: filepath.Join(f.dir, "keeper.log"),
		Binary: binary, Build: build})
	if err != nil {
		f.t.Fatal(err)
	}
	f.take(c)
}

// await waits until the keeper of the moment is of that build.
func (f *fixture) await(build string) {
	f.t.Helper()
	for f.build() != build {
		if f.t.Context().Err() != nil {
			f.t.Fatal("it ends")
		}
	}
}

func (f *fixture) build() string {
	m, _, err := f.current().ask(context.Background(), &message{Verb: verbHello, Version: Version}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return m.Build
}

// count is a program that writes numbers, each on a line, and ends with code when
// it is told to by a line in gate.
func count(gate string, code int) []string {
	return []string{"/bin/bash", "-c", fmt.Sprintf("exec 3<%s; n=0; while ! read -t 0 x <&3; do echo $n; n=$((n+1)); done; exit %d", gate, code)}
}

// TestUpgrade: a keeper goes on as another build, several times, while containers
// write, end, and start: same process, no line lost, each exit code right.
func TestUpgrade(t *testing.T) {
	f := start(t)
	const writers, upgrades = 12, 4
	gate := f.gate()
	ends := map[string]int{}
	for n := range writers {
		id := fmt.Sprint("writer-", n)
		f.run(id, count(gate.Name(), 10+n)...)
		ends[id] = 10 + n
	}
	pid := f.PID()
	for n := range upgrades {
		id := fmt.Sprint("ends-", n) // at about the time of the upgrade
		f.run(id, "/bin/bash", "-c", fmt.Sprintf("read -t 0.0%d; exit %d", n+1, 50+n))
		ends[id] = 50 + n
		build := fmt.Sprint("build-", n)
		f.redial(build, os.Executable)
		f.await(build)
		if f.PID() != pid {
			t.Fatalf("the keeper is process %d, it was %d", f.PID(), pid)
		}
	}
	gate.WriteString(strings.Repeat("x\n", 100))
	for id, code := range ends {
		if e := f.wait(id); e.Code != code {
			t.Errorf("exit of %s is %+v, want %d", id, e, code)
		}
	}
	for n := range writers {
		id := fmt.Sprint("writer-", n)
		for k, line := range f.logLines(id) {
			if line != "stdout F "+strconv.Itoa(k) {
				t.Fatalf("line %d of %s is %q", k, id, line)
			}
		}
		if len(f.logLines(id)) == 0 {
			t.Errorf("%s wrote nothing", id)
		}
	}
	if spawners := f.spawners(); len(spawners) == 0 || len(spawners) > 2 {
		t.Errorf("%d spawners", len(spawners))
	}
	if z := zombies(pid); len(z) > 0 {
		t.Errorf("zombies of the keeper: %v", z)
	}
}

// zombies lists the children of a process that ended and were not reaped.
func zombies(parent int) (list []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, _ := os.ReadFile(name)
		text := string(b)
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		if len(fields) > 1 && fields[0] == "Z" && fields[1] == strconv.Itoa(parent) {
			list = append(list, text)
		}
	}
	return list
}

// TestUpgradeDuringLastOutput: what a container's last process writes when its first
// has ended reaches the log, also when the keeper is upgraded in between.
func TestUpgradeDuringLastOutput(t *testing.T) {
	f := start(t)
	gate := f.gate()
	const others = 3 // whose output an upgrade waits for as well
	for n := range others {
		f.run(fmt.Sprint("other-", n), "/usr/bin/yes")
	}
	began := time.Now()
	f.run("c", "/bin/sh", "-c", "(read x < "+gate.Name()+"; echo late) & exit 3")
	f.until("the reaping", func() bool { return len(f.spawners()) == 1+others }) // now the keeper waits for the output
	f.redial("other", os.Executable)
	f.await("other")
	gate.WriteString("x\n")
	if e := f.wait("c"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	last := func() bool { return slices.Equal(f.logLines("c"), []string{"stdout F late"}) }
	if !last() && time.Since(began) < drainBound {
		t.Error("the end was told before the output's")
	}
	f.until("the last line", last)
}

// TestUpgradeRefused: a binary that cannot take the state over is found out before
// the keeper is one, which goes on and is upgraded by the next that can.
func TestUpgradeRefused(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("writer", count(gate.Name(), 4)...)
	pid := f.PID()
	f.redial("bad", func() (string, error) { return "/bin/false", nil })
	if err := f.upgrade(context.Background()); err == nil || !strings.Contains(err.Error(), "cannot take the state over") {
		t.Fatalf("upgrade to a wrong binary: %v", err)
	}
	f.run("after", "/bin/sh", "-c", "exit 3")
	if e := f.wait("after"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	f.redial("good", os.Executable)
	f.await("good")
	if f.PID() != pid {
		t.Errorf("the keeper is process %d, it was %d", f.PID(), pid)
	}
	gate.WriteString("x\nx\n")
	if e := f.wait("writer"); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	for k, line := range f.logLines("writer") {
		if line != "stdout F "+strconv.Itoa(k) {
			t.Fatalf("line %d is %q", k, line)
		}
	}
}

// TestUpgradeKeepsClients: who is attached stays attached, a terminal and its
// unfinished line go on.
func TestUpgradeKeepsClients(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("c", "/bin/sh", "-c", "printf half; read x < "+gate.Name()+"; echo ' and half'; exit 2")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tap(context.Background(), "c", map[string]*os.File{FDStdout: w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	pid := f.PID()
	l := f.current()
	binary, err := cloneBinary("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	now, _, err := l.ask(context.Background(), &message{Verb: verbUpgrade, Build: "next"}, []int{int(binary.Fd())})
	if err != nil || now.Build != "next" || now.PID != pid {
		t.Fatalf("upgraded: %+v, %v", now, err)
	}
	gate.WriteString("go\n")
	if e := f.wait("c"); e.Code != 2 {
		t.Errorf("exit %+v", e)
	}
	var seen [64]byte
	n, _ := r.Read(seen[:])
	if !strings.Contains(string(seen[:n]), "and half\n") {
		t.Errorf("the attached client saw %q", seen[:n])
	}
	if got := f.logLines("c"); !slices.Equal(got, []string{"stdout F half and half"}) {
		t.Errorf("log %q", got)
	}
}

// TestOldKeeper: a daemon finds a keeper of the first protocol and leaves it what
// it is; an old daemon finds a new keeper and is served.
func TestOldKeeper(t *testing.T) {
	f := start(t)
	f.run("c", "/bin/sh", "-c", "read x < "+f.gate().Name())
	l := f.current()
	l.version, l.build = 1, ""
	daemon := &Client{cfg: f.cfg, link: l, replaced: make(chan struct{}), closing: make(chan struct{})}
	daemon.cfg.Build = "new"
	if err := daemon.upgrade(context.Background()); err == nil || !strings.Contains(err.Error(), "speaks version 1") {
		t.Errorf("upgrade of an old keeper: %v", err)
	}
	old, _, err := l.ask(context.Background(), &message{Verb: verbHello, Version: 1}, nil)
	if err != nil || old.PID != f.PID() {
		t.Errorf("a daemon of version 1 is told %+v, %v", old, err)
	}
	if _, _, err := l.ask(context.Background(), &message{Verb: "of the future"}, nil); err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("a verb of a later version: %v", err)
	}
	unix.PidfdSendSignal(int(f.Items()[0].FDs[FDPid].Fd()), unix.SIGKILL, nil, 0)
	f.wait("c")
}
