package harness

import (
	"os"
	"os/exec"
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
