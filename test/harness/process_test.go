package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestOldest: a child is not the oldest, whatever its number, nor is who began
// later or is gone.
func TestOldest(t *testing.T) {
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	for _, list := range [][]int{{pid, os.Getpid()}, {os.Getpid(), pid}} {
		if got := Oldest(list); got != os.Getpid() {
			t.Errorf("of %v it is %d", list, got)
		}
	}
	if got := Oldest([]int{pid, 1}); got != 1 {
		t.Errorf("it is %d, and process 1 was here before", got)
	}
	child.Process.Kill()
	child.Wait()
	if got := Oldest([]int{pid}); got != 0 {
		t.Errorf("nobody lives, and it is %d", got)
	}
}

// TestKeeperIsNoChild: the keeper's child is not the keeper, in whatever order both are
// listed, as long as it has its arguments.
func TestKeeperIsNoChild(t *testing.T) {
	i := prepare(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keeper"), []byte("exec 3<&0; (read line <&3; true) & read line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command("sh", "keeper", filepath.Join(i.State, "keeper.sock"))
	keeper.Dir = dir
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close() // after which all of them end
	keeper.Stdin = in
	start(t, keeper)
	if !within(stopTimeout, func() bool { return len(Children(keeper.Process.Pid)) == 1 }) {
		t.Fatal("it has no child")
	}
	list := procs()
	for range 2 {
		if got := i.keeperOf(list); got != keeper.Process.Pid {
			t.Errorf("it is process %d and not %d: %s", got, keeper.Process.Pid, Describe(got))
		}
		slices.Reverse(list)
	}
}
