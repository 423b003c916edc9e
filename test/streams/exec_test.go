package streams_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

type streams = remotecommand.Options

func TestExec(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	t.Run("outputs and exit code", func(t *testing.T) {
		s := exec(t, c, streams{Stdout: true, Stderr: true}, sh("echo one; echo two >&2; exit 7")...)
		equal(t, "end", s.end(), "7")
		equal(t, "stdout", s.all(s.stdout), "one\n")
		equal(t, "stderr", s.all(s.stderr), "two\n")
		s = exec(t, c, streams{Stdout: true}, "/bin/true")
		equal(t, "end", s.end(), "Success")
	})
	t.Run("a long output", func(t *testing.T) {
		s := exec(t, c, streams{Stdout: true}, run("write-lines", "100000", "100")...)
		equal(t, "bytes", len(s.all(s.stdout)), 10_000_000)
		equal(t, "end", s.end(), "Success")
	})
	t.Run("stdin half-close", func(t *testing.T) {
		s := exec(t, c, streams{Stdin: true, Stdout: true}, sh("cat; echo the end")...)
		s.stdin.Write([]byte("text\n"))
		s.stdin.Close()
		equal(t, "stdout", s.all(s.stdout), "text\nthe end\n")
		equal(t, "end", s.end(), "Success")
	})
	t.Run("input nobody reads", func(t *testing.T) {
		s := exec(t, c, streams{Stdin: true, Stdout: true}, "/bin/true")
		go s.stdin.Write(make([]byte, 1<<20))
		equal(t, "end", s.end(), "Success")
	})
	t.Run("what cannot run", func(t *testing.T) {
		s := exec(t, c, streams{Stdout: true, Stderr: true}, "/bin/missing")
		equal(t, "end", s.end(), "127")
		if text := s.all(s.stderr); !strings.Contains(text, "/bin/missing") {
			t.Errorf("stderr has %q", text)
		}
		equal(t, "a directory's end", exec(t, c, streams{Stdout: true, Stderr: true}, "/tmp").end(), "126")
	})
	t.Run("a child in the background does not hold the end", func(t *testing.T) {
		s := exec(t, c, streams{Stdout: true}, run("hold-output")...)
		equal(t, "end", s.end(), "Success")
		equal(t, "stdout", s.all(s.stdout), "done\n")
		s = exec(t, c, streams{Stdout: true}, sh("yes & echo; sleep 0.1")...)
		equal(t, "end of one that goes on writing", s.end(), "Success")
		c.MustExec("/bin/killall", "-9", "yes")
	})
}

func TestExecTTY(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	term := streams{Stdin: true, Stdout: true, TTY: true}
	t.Run("size and exit code", func(t *testing.T) {
		s := exec(t, c, term, "/bin/sh")
		s.size(101, 37)
		s.stdin.Write([]byte("while [ \"$(stty size)\" != '37 101' ]; do sleep 0.01; done; echo si''zed; tty\n"))
		s.until(s.stdout, "sized\r\n/dev/pts/")
		s.size(55, 44)
		s.stdin.Write([]byte("while [ \"$(stty size)\" != '44 55' ]; do sleep 0.01; done; echo ag''ain; exit 3\n"))
		s.until(s.stdout, "again\r\n")
		equal(t, "end", s.end(), "3")
	})
	t.Run("the last output is there", func(t *testing.T) {
		s := exec(t, c, streams{Stdout: true, TTY: true}, run("write-lines", "1000", "100")...)
		equal(t, "bytes", len(s.all(s.stdout)), 1000*101) // CR LF
		equal(t, "end", s.end(), "Success")
	})
	t.Run("the end of input", func(t *testing.T) {
		s := exec(t, c, term, "/bin/cat")
		s.stdin.Write([]byte("line\n"))
		s.stdin.Close()
		equal(t, "end", s.end(), "Success")
	})
}

// alone waits until nothing of a command is left in the container, which had before
// processes.
func alone(t *testing.T, c *harness.Container, before int, what string) {
	t.Helper()
	c.Wait(what+": the end of the command", func() bool { return processes(t, c) == before })
	// Where a child was still dying, the next command removes the group.
	c.Wait(what+": the groups of commands to go", func() bool {
		c.MustExec("/bin/true")
		return len(groupsIn(t, c.Group())) == 0
	})
}

// TestExecClientGoesOnAnOlderKernel: SIGHUP reaches all of the command's group.
func TestExecClientGoesOnAnOlderKernel(t *testing.T) {
	i := harness.New(t, harness.Env(mount.Without+"=signal-group"))
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	before := processes(t, c)
	s := exec(t, c, streams{Stdout: true}, sh("echo ready; sleep 1000; sleep 1001")...)
	s.until(s.stdout, "ready")
	s.vanish()
	alone(t, c, before, "no terminal")
}

// TestExecClientGoes: what a command gets when its client dies, with and without
// a terminal, also while its input is blocked.
func TestExecClientGoes(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	before := processes(t, c)
	alone := func(what string) {
		t.Helper()
		alone(t, c, before, what)
	}
	s := exec(t, c, streams{Stdin: true, Stdout: true, TTY: true}, sh("echo ready; sleep 1000; sleep 1001")...)
	s.until(s.stdout, "ready")
	s.vanish()
	alone("terminal")

	s = exec(t, c, streams{Stdout: true}, sh("echo ready; sleep 1000; sleep 1001")...)
	s.until(s.stdout, "ready")
	s.vanish()
	alone("no terminal")

	s = exec(t, c, streams{Stdin: true, Stdout: true}, sh("echo ready; sleep 1000")...)
	s.until(s.stdout, "ready")
	go func(input io.Writer) { // s is another one soon
		for range 1000 { // far more than all buffers on the way hold
			if _, err := input.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}(s.stdin)
	i.Wait("the input to be blocked", func() bool { return blocked(s.raw) })
	s.vanish()
	alone("blocked input")

	s = exec(t, c, streams{Stdout: true}, "/bin/yes")
	s.until(s.stdout, "y\n")
	s.vanish()
	alone("a writer that never ends")

	// Who handles SIGHUP goes on, and nobody waits for it.
	s = exec(t, c, streams{Stdout: true}, sh("trap 'echo hup > /tmp/hup' HUP; echo ready; while [ ! -e /tmp/stop ]; do sleep 0.05; done")...)
	s.until(s.stdout, "ready")
	s.vanish()
	i.Wait("SIGHUP to come", func() bool { r, err := c.Exec(0, "/bin/cat", "/tmp/hup"); return err == nil && r.Stdout == "hup\n" })
	c.MustExec("/bin/touch", "/tmp/stop")
	alone("one that handled SIGHUP")
}

// TestExecURL: tokens work once; bad requests are named.
func TestExecURL(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	link := execURL(t, c, streams{Stdout: true}, "/bin/true")
	if !strings.HasPrefix(link, "http://127.0.0.1:") {
		t.Errorf("the URL is %s", link)
	}
	s := open(t, i, link, &streams{Stdout: true})
	equal(t, "end", s.end(), "Success")
	conn, u := dial(t, i, link)
	defer conn.Close()
	equal(t, "status of a second use", upgrade(t, conn, u, remotecommand.StreamProtocolV4Name).StatusCode, http.StatusNotFound)

	for name, r := range map[string]*runtimeapi.ExecRequest{
		"container_id": {Cmd: []string{"x"}, Stdout: true},
		"cmd":          {ContainerId: c.ID, Stdout: true},
		"stdin":        {ContainerId: c.ID, Cmd: []string{"x"}},
		"tty":          {ContainerId: c.ID, Cmd: []string{"x"}, Tty: true, Stderr: true, Stdout: true},
	} {
		_, err := i.Runtime.Exec(i.Context(), r)
		if grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("a request without or with a wrong %s: %v", name, err)
		}
	}
	_, err := i.Runtime.Exec(i.Context(), &runtimeapi.ExecRequest{ContainerId: "none", Cmd: []string{"x"}, Stdout: true})
	equal(t, "code for a container that is not there", grpcstatus.Code(err), codes.NotFound)
}
