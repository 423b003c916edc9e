package podinit

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The image runs, reaps, names itself and shrugs off SIGTERM.
func TestImageRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, Image(), 0o700); err != nil {
		t.Fatal(err)
	}
	end, ends, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ends.Close()
	// The shell leaves an orphan to what it becomes: one that ends when the pipe does.
	cmd := exec.Command("/bin/sh", "-c", "(read x <&3) & echo $!; exec "+path)
	cmd.ExtraFiles = []*os.File{end}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	end.Close()
	orphan, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	until(t, "the name", func() bool { return read(own+"comm") == "cri-box-init\n" })
	ends.Close()
	until(t, "the orphan's end and reaping", func() bool { return read("/proc/"+strings.TrimSpace(orphan)+"/stat") == "" })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// It has just reaped, and need not sleep again yet.
	until(t, "its sleep after SIGTERM", func() bool {
		status := read(own + "status")
		if status == "" || strings.Contains(status, "State:\tZ") || strings.Contains(status, "State:\tX") {
			t.Fatalf("it ended of SIGTERM:\n%s", status)
		}
		return strings.Contains(status, "State:\tS")
	})
}

// read gives what a file has now, nothing if it is gone.
func read(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
