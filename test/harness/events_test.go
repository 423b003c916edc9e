package harness

import (
	"os"
	"os/exec"
	"testing"
)

func TestProcessEvents(t *testing.T) {
	events := WatchProcesses(t)
	if err := exec.Command("sh", "-c", "true; sh -c 'exit 0'; sh -c 'exit 0'; exit 0").Run(); err != nil {
		t.Fatal(err)
	}
	first := events.Take(t)
	if got := Execs(Family(first, os.Getpid())); got != 3 {
		t.Errorf("saw %d execve, made 3", got)
	}
	if got := Execs(Family(first, 1<<22)); got != 0 {
		t.Errorf("a process that does not exist made %d", got)
	}
	if got := Execs(Family(events.Take(t), os.Getpid())); got != 0 {
		t.Errorf("nothing was made meanwhile, %d seen", got)
	}
}
