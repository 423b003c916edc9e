package streams_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAttachFastWriter: two clients of a container that writes as fast as it can
// get every byte, and so does the log.
func TestAttachFastWriter(t *testing.T) {
	i := harness.New(t)
	const lines = 200000
	c := i.RunPod().Run("c", i.Image(busybox), sh(fmt.Sprintf(
		"while read x && [ $x != go ]; do echo $x; done; echo $x >&2; exec /bin/workload write-lines %d 100", lines)), stdin)
	a := attach(t, c, streams{Stdin: true, Stdout: true, Stderr: true})
	b := attach(t, c, streams{Stdout: true})
	const hello = "hello\n"
	// What is written before a client is attached is not for it, and nothing tells it when it is.
	i.Wait("both clients to be attached", func() bool {
		a.stdin.Write([]byte(hello))
		return strings.Contains(a.stdout.soFar(), hello) && strings.Contains(b.stdout.soFar(), hello)
	})
	a.stdin.Write([]byte("go\n"))
	written := func(text string) string {
		for strings.HasPrefix(text, hello) {
			text = text[len(hello):]
		}
		return text
	}
	first, second := written(a.all(a.stdout)), written(b.all(b.stdout))
	equal(t, "bytes", len(first), lines*100)
	equal(t, "the second client has the same", first == second, true)
	equal(t, "stderr", a.all(a.stderr), "go\n")
	equal(t, "end", a.end(), "Success")
	c.WaitExit()
	equal(t, "the log has the same", written(c.Output("stdout")) == first, true)
}

// TestAttachStdin: the end of a client's input is the container's with stdin_once
// only; so is a client that dies.
func TestAttachStdin(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	both := streams{Stdin: true, Stdout: true}
	t.Run("stays open", func(t *testing.T) {
		c := pod.Run("open", i.Image(busybox), []string{"/bin/cat"}, stdin)
		a := attach(t, c, both)
		a.stdin.Write([]byte("first\n"))
		a.stdin.Close()
		a.until(a.stdout, "first\n")
		a.vanish()
		b := attach(t, c, both)
		b.stdin.Write([]byte("second\n"))
		b.until(b.stdout, "second\n")
		equal(t, "state", c.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
		c.Stop(0)
		equal(t, "end of the client", b.end(), "Success")
	})
	t.Run("once, by the end of input", func(t *testing.T) {
		c := pod.Run("once", i.Image(busybox), []string{"/bin/cat"}, stdinOnce)
		a := attach(t, c, both)
		a.stdin.Write([]byte("text\n"))
		a.stdin.Close()
		equal(t, "stdout", a.all(a.stdout), "text\n")
		equal(t, "end", a.end(), "Success")
		equal(t, "exit code", c.WaitExit().ExitCode, 0)
	})
	t.Run("once, by a client that dies", func(t *testing.T) {
		c := pod.Run("gone", i.Image(busybox), []string{"/bin/cat"}, stdinOnce)
		a := attach(t, c, both)
		a.stdin.Write([]byte("text\n"))
		a.until(a.stdout, "text\n")
		a.vanish()
		equal(t, "exit code", c.WaitExit().ExitCode, 0)
	})
	t.Run("once, not by a client without stdin", func(t *testing.T) {
		c := pod.Run("other", i.Image(busybox), []string{"/bin/cat"}, stdinOnce)
		attach(t, c, streams{Stdout: true}).vanish()
		a := attach(t, c, both)
		a.stdin.Write([]byte("text\n"))
		a.until(a.stdout, "text\n")
	})
}

func TestAttachTTY(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), []string{"/bin/sh"}, tty)
	term := streams{Stdin: true, Stdout: true, TTY: true}
	a := attach(t, c, term)
	a.size(101, 37)
	a.stdin.Write([]byte("while [ \"$(stty size)\" != '37 101' ]; do sleep 0.01; done; echo si''zed\n"))
	a.until(a.stdout, "sized\r\n")
	b := attach(t, c, term)
	b.stdin.Write([]byte("echo bo''th\n"))
	a.until(a.stdout, "both\r\n")
	b.until(b.stdout, "both\r\n")
	a.vanish()
	b.stdin.Write([]byte("echo still he''re\n"))
	b.until(b.stdout, "still here\r\n")

	// The session outlives the keeper.
	old := i.Keeper()
	unix.Kill(old, unix.SIGKILL)
	i.Wait("another keeper", func() bool { k := i.Keeper(); return k != 0 && k != old })
	// What the terminal says before that one copies again is in the log alone.
	i.Wait("a copy by another keeper", func() bool {
		b.stdin.Write([]byte("echo sur''vived\n"))
		return strings.Contains(b.stdout.soFar(), "survived\r\n")
	})
	b.stdin.Write([]byte("exit 5\n"))
	equal(t, "end", b.end(), "Success")
	if s := c.WaitExit(); s.ExitCode != 5 && (harness.KeepsExits() || s.ExitCode != 255 || s.Reason != "Unknown") {
		t.Errorf("code %d, reason %q: want 5", s.ExitCode, s.Reason)
	}
}

// TestDetachLosesNothing: clients that come and die leave no hole in the log, and
// hold nobody up.
func TestDetachLosesNothing(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), run("count", "1"))
	for range 20 {
		a := attach(t, c, streams{Stdout: true})
		a.until(a.stdout, "\n")
		a.vanish()
	}
	// One that reads nothing at all, while the container goes on.
	link := attachURL(t, c, streams{Stdout: true})
	conn, u := dial(t, i, link)
	defer conn.Close()
	upgrade(t, conn, u, "v4.channel.k8s.io")
	c.Stop(30)
	c.WaitExit()
	lines := strings.Split(strings.TrimSuffix(c.Output("stdout"), "\n"), "\n")
	for n, line := range lines[:len(lines)-1] {
		if line != strconv.Itoa(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
}
