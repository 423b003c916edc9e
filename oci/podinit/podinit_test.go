package podinit

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The image runs, reaps, names itself and shrugs off SIGTERM.
func TestImageRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, Image(), 0o700); err != nil {
		t.Fatal(err)
	}
	// The shell leaves an orphan to what it becomes: one that ends after it.
	cmd := exec.Command("/bin/sh", "-c", "sleep 0.05 & echo $!; exec "+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	orphan, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	orphan = strings.TrimSpace(orphan)
	for exists(t, "/proc/"+orphan) { // ends when the sleep does and is reaped
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/comm")
	if err != nil || string(comm) != "cri-box-init\n" {
		t.Errorf("name %q, %v", comm, err)
	}
	status, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/status")
	if err != nil || !strings.Contains(string(status), "State:\tS") {
		t.Errorf("after SIGTERM: %v\n%s", err, status)
	}
}

func exists(t *testing.T, path string) bool {
	_, err := os.Stat(path)
	if t.Context().Err() != nil {
		t.Fatal("not reaped")
	}
	return err == nil
}

func itoa(i int) string {
	if i < 10 {
		return string(rune('0' + i))
	}
	return itoa(i/10) + string(rune('0'+i%10))
}
