package oci

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestScoresOfMany: oom_score_adj of more processes than the daemon may open files is
// changed, of all of them, and given back.
func TestScoresOfMany(t *testing.T) {
	const processes = 300
	system, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	group, err := system.Create(t.Context(), fmt.Sprintf("/cri-box-test-scores-%d", os.Getpid()), &specs.LinuxResources{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	child := exec.Command("/bin/sh", "-c", fmt.Sprintf("read x; n=0; while [ $n -lt %d ]; do sleep 1000 & n=$((n+1)); done; echo ready; wait", processes))
	in, _ := child.StdinPipe()
	out, _ := child.StdoutPipe()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		group.Kill(context.Background())
		child.Wait()
	}()
	enter(t, group, child.Process.Pid)
	in.Write([]byte("go\n"))
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	defer few(t, 100)()
	scores := oomScores{}
	if err := scores.set(group, 444); err != nil {
		t.Fatal(err)
	}
	all(t, group, processes+1, "444")
	if err := scores.restore(); err != nil {
		t.Fatal(err)
	}
	all(t, group, processes+1, "0")
}

// all checks the value of as many processes.
func all(t *testing.T, group *cgroup.Cgroup, count int, want string) {
	t.Helper()
	pids, err := group.Procs()
	if err != nil || len(pids) != count {
		t.Fatalf("%d processes: %v", len(pids), err)
	}
	others := 0
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil || strings.TrimSpace(string(b)) != want {
			others++
		}
	}
	if others > 0 {
		t.Errorf("%d of %d processes have another value than %s", others, count, want)
	}
}

// few lets this process open no more than n files, until undone.
func few(t *testing.T, n uint64) (undo func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	return func() { syscall.Setrlimit(unix.RLIMIT_NOFILE, &was) }
}

// enter moves a process into the group.
func enter(t *testing.T, group *cgroup.Cgroup, pid int) {
	t.Helper()
	for _, view := range group.Views() {
		if err := os.WriteFile(filepath.Join(view.Dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}
