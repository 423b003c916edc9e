package streams_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestReopenUnderLoad: while a container writes as fast as it can, its log is
// rotated again and again. No line is lost, split or written to a file after
// ReopenContainerLog has returned.
func TestReopenUnderLoad(t *testing.T) {
	i := harness.New(t)
	const lines = 400000
	c := i.RunPod().Run("c", i.Image(busybox), sh(fmt.Sprintf( // which is there for as long as it takes
		"/bin/workload write-lines %d 100; while [ ! -e /tmp/end ]; do sleep 0.05; done", lines)))
	var files []string
	for n := range 30 {
		old := fmt.Sprintf("%s.%d", c.LogPath(), n)
		if err := os.Rename(c.LogPath(), old); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
		if _, err := i.Runtime.ReopenContainerLog(i.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
		size := fileSize(t, old)
		defer func() { equal(t, old+": bytes after its rotation", fileSize(t, old)-size, 0) }()
	}
	c.MustExec("/bin/touch", "/tmp/end")
	c.WaitExit()
	files = append(files, c.LogPath())
	next := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			if line == "" {
				continue // a file without lines
			}
			fields := strings.SplitN(line, " ", 4)
			if len(fields) != 4 || fields[1] != "stdout" || fields[2] != "F" || len(fields[3]) != 99 || !strings.HasPrefix(fields[3], fmt.Sprintf("%d x", next)) {
				t.Fatalf("%s: line %d is %.150q", filepath.Base(name), next, line)
			}
			next++
		}
	}
	equal(t, "lines", next, lines)
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestFullDisk: a container whose log cannot be written goes on; the log ends in
// a whole line, and the daemon says it once.
func TestFullDisk(t *testing.T) {
	i := harness.New(t)
	dir := filepath.Join(i.Dir, "logs", "full")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("logs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = dir })
	c := pod.Run("c", i.Image(probe), run("write-lines", "50000", "101")) // no divisor of a page
	equal(t, "exit code", c.WaitExit().ExitCode, 0)
	text, err := os.ReadFile(c.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if len(text) < 200<<10 || !strings.HasSuffix(string(text), "x\n") {
		t.Errorf("the log has %d bytes and ends in %q", len(text), text[max(0, len(text)-50):])
	}
	for n, l := range c.Logs() {
		if len(l.Text) != 100 || !strings.HasPrefix(l.Text, fmt.Sprintf("%d x", n)) {
			t.Fatalf("line %d is %q", n, l.Text)
		}
	}
	told := func() int {
		said, _ := os.ReadFile(i.Log())
		return strings.Count(string(said), "cannot write a container's log")
	}
	i.Wait("the daemon to tell it", func() bool { return told() > 0 }) // the keeper says it on its own
	c.Remove()
	equal(t, "times it is told", told(), 1)
}

// TestLogForm: what is between the newlines is kept as it came.
func TestLogForm(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	logged := func(name, script string, opts ...harness.ContainerOption) string {
		c := pod.Run(name, i.Image(busybox), sh(script), opts...)
		c.WaitExit()
		var b strings.Builder
		for _, l := range c.Logs() {
			tag := "F"
			if !l.Full {
				tag = "P"
			}
			fmt.Fprintf(&b, "%s %s %d %q|", l.Stream, tag, len(l.Text), l.Text[:min(len(l.Text), 8)])
		}
		return b.String()
	}
	equal(t, "no newline at the end", logged("a", "printf 'one\\ntwo'"), `stdout F 3 "one"|stdout F 3 "two"|`)
	equal(t, "carriage returns", logged("b", "printf 'one\\r\\ntwo\\r\\n'"), `stdout F 4 "one\r"|stdout F 4 "two\r"|`)
	equal(t, "empty lines", logged("c", "echo; echo"), `stdout F 0 ""|stdout F 0 ""|`)
	equal(t, "a terminal merges", logged("d", "echo out; echo err >&2", tty), `stdout F 4 "out\r"|stdout F 4 "err\r"|`)
	equal(t, "a long line", logged("e", "head -c 40000 /dev/zero | tr '\\0' x; echo"),
		`stdout P 16384 "xxxxxxxx"|stdout P 16384 "xxxxxxxx"|stdout F 7232 "xxxxxxxx"|`)
	equal(t, "just as long as a line can be", logged("f", "head -c 16384 /dev/zero | tr '\\0' x; echo"), `stdout F 16384 "xxxxxxxx"|`)
	equal(t, "a long line without newline", logged("g", "head -c 16385 /dev/zero | tr '\\0' x"),
		`stdout P 16384 "xxxxxxxx"|stdout F 1 "x"|`)
}

// TestExecSyncLimit: 16 MB of the outputs come, half of each where there is more of
// both, which a client takes that is set up as the kubelet's; the rest does not hold
// the command up.
func TestExecSyncLimit(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	resp, err := i.Runtime.ExecSync(i.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID,
		Cmd: sh("head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 4")})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes of stdout", len(resp.Stdout), 8_000_000)
	equal(t, "bytes of stderr", len(resp.Stderr), 8_000_000)
	equal(t, "exit code", resp.ExitCode, 4)
	resp, err = i.Runtime.ExecSync(i.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: sh("echo problem >&2; head -c 20000000 /dev/zero")})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes of stdout, and of stderr", fmt.Sprint(len(resp.Stdout), len(resp.Stderr)), "15999992 8")
	// A child in the background that never stops writing does not hold the answer.
	resp, err = i.Runtime.ExecSync(i.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: sh("yes & sleep 0.1")})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "exit code", resp.ExitCode, 0)
	c.MustExec("/bin/killall", "-9", "yes")
	equal(t, "code of what is not executable", mustExec(t, c, "/etc/passwd").Code, 126)
	equal(t, "code of what is not there", mustExec(t, c, "missing").Code, 127)
}

func mustExec(t *testing.T, c *harness.Container, cmd ...string) harness.ExecResult {
	t.Helper()
	r, err := c.Exec(0, cmd...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
