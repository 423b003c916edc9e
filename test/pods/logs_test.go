package pods_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

func TestLogStreams(t *testing.T) {
	i := harness.New(t)
	before := time.Now()
	c := i.RunPod().Run("c", i.Image(probe), run("echo", "to stdout", "to stderr"))
	c.WaitExit()
	equal(t, "stdout", c.Output("stdout"), "to stdout\n")
	equal(t, "stderr", c.Output("stderr"), "to stderr\n")
	for _, l := range c.Logs() {
		if l.Time.Before(before) || l.Time.After(time.Now()) || !l.Full {
			t.Errorf("line %+v", l)
		}
	}
	info, err := os.Stat(c.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode of the log", info.Mode().Perm(), 0o640)
}

// TestLogIsWholeWhenExited: when the status says exited, the last line is there.
func TestLogIsWholeWhenExited(t *testing.T) {
	i := harness.New(t)
	const lines, size = 20000, 80
	c := i.RunPod().Run("c", i.Image(probe), run("write-lines", fmt.Sprint(lines), fmt.Sprint(size)))
	c.WaitExit()
	got := strings.SplitAfter(strings.TrimSuffix(c.Output("stdout"), "\n"), "\n")
	equal(t, "lines", len(got), lines)
	for n, line := range got {
		if !strings.HasPrefix(line, fmt.Sprintf("%d x", n)) {
			t.Fatalf("line %d is %.40q", n, line)
		}
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	i := harness.New(t)
	const size = 100000
	c := i.RunPod().Run("c", i.Image(probe), run("write-lines", "2", fmt.Sprint(size)))
	c.WaitExit()
	equal(t, "bytes", len(c.Output("stdout")), 2*size)
	var partial int
	for _, l := range c.Logs() {
		if !l.Full {
			partial++
		}
		if len(l.Text) > 16<<10 {
			t.Errorf("a line of %d bytes", len(l.Text))
		}
	}
	if partial == 0 {
		t.Error("no line is marked as partial")
	}
}

// TestUnfinishedLineDoesNotStopTheLog: inside a write larger than the pipe the
// kernel wakes its reader only if the pipe was empty before (fs/pipe.c, pipe_write),
// so a reader that leaves the beginning of a line in the pipe may sleep for ever.
func TestUnfinishedLineDoesNotStopTheLog(t *testing.T) {
	i := harness.New(t)
	const size = 1 << 20
	c := i.RunPod().Run("c", i.Image(probe), run("burst", fmt.Sprint(size)))
	c.WaitExit()
	equal(t, "bytes", len(c.Output("stdout")), len("begin ")+size)
}

// TestStdoutOpens: a process that is not root opens its own /dev/stdout.
func TestStdoutOpens(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), []string{"/bin/sh", "-c", "echo out >/dev/stdout && echo err >/dev/stderr"}, asUser(1000))
	equal(t, "exit code", c.WaitExit().ExitCode, 0)
	equal(t, "stdout", c.Output("stdout"), "out\n")
	equal(t, "stderr", c.Output("stderr"), "err\n")
}

// TestLogPathStaysInItsDirectory: a name in the request is no way out.
func TestLogPathStaysInItsDirectory(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	config := pod.ContainerConfig("c", i.Image(probe), sleeper)
	config.LogPath = "../../escaped.log"
	if c, err := pod.TryCreate(config); err == nil {
		if err := c.TryStart(); err == nil {
			t.Error("a container logs outside of its pod's directory")
		}
	}
}
