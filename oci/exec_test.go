package oci

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKillWhatHasEnded: without a group of its own a command that has ended is not
// looked for by its number, which may be another process's by now.
func TestKillWhatHasEnded(t *testing.T) {
	other := exec.Command("/bin/sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Session{PID: other.Process.Pid, pidfd: func() (*os.File, error) { return nil, os.ErrNotExist }}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	other.Process.Signal(unix.SIGTERM)
	other.Wait()
	if sig := other.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal(); sig != unix.SIGTERM {
		t.Errorf("another process was ended by %v", sig)
	}
}
