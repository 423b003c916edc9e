package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/probe/state"
	"golang.org/x/sys/unix"
)

// build builds the probe as the harness does.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", bin, ".")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the probe: %v\n%s", err, out)
	}
	return bin
}

// TestSeesWhatItWasBornWith gives a probe unusual state and finds it reported:
// above all what the Go runtime changes before main.
func TestSeesWhatItWasBornWith(t *testing.T) {
	bin := build(t, "-ldflags=-E=probe_entry")
	// The shell sets what os/exec cannot; it ignores USR1 and PIPE for its children.
	script := `trap '' USR1 PIPE; umask 027; ulimit -S -n 321; ulimit -S -c 0; cd /proc; exec "$0" one two`
	cmd := exec.Command("env", "--block-signal=TERM,USR2", "/bin/sh", "-c", script, bin)
	cmd.Env = []string{"A=1", "B=2", "A=3"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: 0, Gid: 7, Groups: []uint32{7, 8}}}
	extra, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cmd.ExtraFiles = []*os.File{extra}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	s, err := state.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "argv", s.Argv, []string{bin, "one", "two"})
	equal(t, "cwd", s.Cwd, "/proc")
	equal(t, "umask", s.View.Umask, "0027")
	equal(t, "soft NOFILE", s.Limits["NOFILE"].Soft, uint64(321))
	for _, sig := range []unix.Signal{unix.SIGUSR1, unix.SIGPIPE} { // make has its children ignore 32 too
		if !slices.Contains(s.Signals.Ignored, int(sig)) {
			t.Errorf("%v is not among the ignored %v", sig, s.Signals.Ignored)
		}
	}
	if slices.Contains(s.Signals.Ignored, int(unix.SIGTERM)) {
		t.Error("SIGTERM is reported as ignored")
	}
	equal(t, "blocked", s.Signals.Blocked, []int{int(unix.SIGUSR2), int(unix.SIGTERM)})
	equal(t, "gids", s.IDs.GIDs, [4]int{7, 7, 7, 7})
	equal(t, "groups", s.IDs.Groups, []int{7, 8})
	equal(t, "session", s.Session.SID, s.Session.PID)
	equal(t, "nice", s.Sched.Nice, 0)
	if v, times := s.Getenv("B"); v != "2" || times != 1 {
		t.Errorf("B is %q, set %d times", v, times)
	}
	for _, f := range s.Files { // whoever runs the tests may leave more open than 0 to 3
		if f.CloseOnExec {
			t.Errorf("descriptor %d, %s, is the probe's own", f.FD, f.Target)
		}
	}
	equal(t, "descriptor 3", s.Files[3].Target, "/dev/null")
	equal(t, "kind of descriptor 1", s.Files[1].Kind, "fifo")
	if m := s.Mount("/proc"); m == nil || m.FSType != "proc" {
		t.Errorf("mount of /proc: %+v", m)
	}
	if i := slices.IndexFunc(s.Dev, func(n state.Node) bool { return n.Name == "null" }); i < 0 || s.Dev[i].Dev != "1:3" {
		t.Errorf("/dev/null is not among %+v", s.Dev)
	}
}

// TestRefusesToGuess: without its entry point the probe would report what the
// Go runtime made of the signals and limits.
func TestRefusesToGuess(t *testing.T) {
	if out, err := exec.Command(build(t)).CombinedOutput(); err == nil {
		t.Errorf("a probe without its entry point answered %s", out)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
