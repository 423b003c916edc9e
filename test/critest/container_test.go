package critest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandAndArgs(t *testing.T) {
	clause(t, "Command to execute (i.e., entrypoint for docker)")
	n := newNode(t)
	p := n.pod()
	c := p.run(func(c *runtimeapi.ContainerConfig) {
		c.Command, c.Args = []string{"/bin/echo", "one"}, []string{"a b", "$HOME"}
	})
	c.ended()
	equal(t, "output", c.output(), "one a b $HOME\n")
}

func TestWorkingDir(t *testing.T) {
	clause(t, "Current working directory of the command.")
	n := newNode(t)
	p := n.pod()
	c := p.run(func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/made/for/it" })
	equal(t, "cwd of the process", c.sh("readlink /proc/1/cwd"), "/made/for/it")
	equal(t, "cwd of an exec", c.sh("pwd"), "/made/for/it")
	_, err := p.try(func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "relative" })
	strict(t, "a relative path", err)
}

// TestEnvsAreBytes: what is no text passes as it is, also to an exec.
func TestEnvsAreBytes(t *testing.T) {
	clause(t, "List of environment variable to set in the container.")
	n := newNode(t)
	raw := "\xff\xfe=\x80 \n\x01"
	c := n.pod().run(func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "RAW", Value: []byte(raw)}, {Key: "A", Value: []byte("1")}, {Key: "A", Value: []byte("2")}}
	})
	want := fmt.Sprintf("%x", "\x00RAW="+raw+"\x00")
	for what, file := range map[string]string{"the process": "/proc/1/environ", "an exec": "/proc/self/environ"} {
		if got := c.sh("hexdump -ve '1/1 \"%02x\"' " + file); !strings.Contains(got, want) {
			t.Errorf("%s has not %s in %s", what, want, got)
		}
	}
	equal(t, "the last one", c.sh("echo $A"), "2")
}

func TestLabelsAndAnnotations(t *testing.T) {
	clause(t, "Annotations MUST NOT be altered by the runtime")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) {
		c.Labels, c.Annotations = map[string]string{"l": "1"}, map[string]string{"io.x/a": "ü\n{}"}
		c.Metadata.Attempt = 3
	})
	c := p.run(func(c *runtimeapi.ContainerConfig) {
		c.Labels, c.Annotations = map[string]string{"m": "2"}, map[string]string{"io.x/b": "ü\n{}"}
		c.Metadata.Attempt = 4
		c.Image.Annotations, c.Image.UserSpecifiedImage, c.Image.ImageRef = map[string]string{"i": "3"}, "as-the-user-said", "ref"
	})
	ps, cs := p.status(), c.status()
	equal(t, "labels of the pod", fmt.Sprint(ps.Labels), "map[l:1]")
	equal(t, "annotations of the pod", ps.Annotations["io.x/a"], "ü\n{}")
	equal(t, "metadata of the pod", ps.Metadata.String(), p.config.Metadata.String())
	equal(t, "labels", fmt.Sprint(cs.Labels), "map[m:2]")
	equal(t, "annotations", cs.Annotations["io.x/b"], "ü\n{}")
	equal(t, "metadata", cs.Metadata.String(), c.config.Metadata.String())
	equal(t, "annotations of the image", fmt.Sprint(cs.Image.Annotations), "map[i:3]")
	equal(t, "user_specified_image", cs.Image.UserSpecifiedImage, "as-the-user-said")
	equal(t, "image", cs.Image.Image, n.image)
	equal(t, "image id", cs.ImageId, n.imageID)
	equal(t, "log path", cs.LogPath, filepath.Join(p.config.LogDirectory, c.config.LogPath))
}

func TestLogPath(t *testing.T) {
	clause(t, "Path relative to PodSandboxConfig.LogDirectory for container to store")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("echo out; echo err >&2; printf unfinished"), func(c *runtimeapi.ContainerConfig) { c.LogPath = "name/0.log" })
	c.ended()
	text, err := os.ReadFile(filepath.Join(p.config.LogDirectory, "name/0.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" stdout F out\n", " stderr F err\n", " unfinished"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the log has no %q:\n%s", want, text)
		}
	}
}

// TestLogPathStaysInside: a log is written as root, and its path comes with a pod.
func TestLogPathStaysInside(t *testing.T) {
	clause(t, "Path relative to PodSandboxConfig.LogDirectory for container to store")
	p := newNode(t).pod()
	for _, bad := range []string{"../up.log", "/abs.log", "a/../../up.log"} {
		_, err := p.try(func(c *runtimeapi.ContainerConfig) { c.LogPath = bad })
		refused(t, bad, err, "log_path")
	}
}

// TestReopenContainerLog: the new file is there when the call returns, and no line
// of a container that writes all the time is lost, there twice or in disorder.
func TestReopenContainerLog(t *testing.T) {
	clause(t, "ReopenContainerLog asks runtime to reopen the stdout/stderr log file")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); done"))
	path := filepath.Join(p.config.LogDirectory, c.config.LogPath)
	reopen := func() error {
		_, err := n.runtime.ReopenContainerLog(n.ctx(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
		return err
	}
	const turns = 20
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for turn := range turns {
		eventually(t, "a line in the file", func() bool { return strings.Contains(read(path), "stdout F line") })
		if err := os.Rename(path, fmt.Sprint(path, ".", turn)); err != nil {
			t.Fatal(err)
		}
		if err := reopen(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.runtime.StopContainer(n.ctx(), &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, fmt.Sprint(path, ".", turns)); err != nil {
		t.Fatal(err)
	}
	next := 0
	for turn := range turns + 1 {
		for line := range strings.Lines(read(fmt.Sprint(path, ".", turn))) {
			if !strings.HasSuffix(line, fmt.Sprintf(" stdout F line %d\n", next)) {
				t.Fatalf("in file %d, where line %d should be: %q", turn, next, line)
			}
			next++
		}
	}
	refused(t, "a container that does not run", reopen())
	if _, err := os.Stat(path); err == nil {
		t.Error("a new file was made for a container that does not run")
	}
}

func TestLogLinesAreSplit(t *testing.T) {
	clause(t, "Path relative to PodSandboxConfig.LogDirectory for container to store")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("head -c 40000 /dev/zero | tr '\\0' x; echo; echo short"))
	c.ended()
	equal(t, "content", c.output(), strings.Repeat("x", 40000)+"\nshort\n")
	text, err := os.ReadFile(filepath.Join(p.config.LogDirectory, c.config.LogPath))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), " stdout P x") || !strings.Contains(string(text), " stdout F x") {
		t.Error("a line of 40000 bytes is not in parts P, P, F")
	}
}

func TestStopSignal(t *testing.T) {
	clause(t, "Returns the stop signal used by the container runtime to terminate the container")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.05; done"), func(c *runtimeapi.ContainerConfig) {
		c.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
	})
	eventually(t, "ready", func() bool { return strings.Contains(c.output(), "ready") })
	if _, err := n.runtime.StopContainer(n.ctx(), &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	s := c.status()
	equal(t, "exit code", s.ExitCode, 7)
	equal(t, "stop_signal in the status", s.StopSignal, runtimeapi.Signal_SIGNAL_SIGUSR1)
	_, err := p.create(func(c *runtimeapi.ContainerConfig) { c.StopSignal = 9999 })
	strict(t, "a signal that is none", err, "stop_signal")
}

func TestTTY(t *testing.T) {
	clause(t, "Variables for interactive containers, these have very specialized")
	n := newNode(t)
	p := n.pod()
	tty := func(c *runtimeapi.ContainerConfig) { c.Tty = true }
	equal(t, "with tty", strings.HasPrefix(p.look("readlink /proc/self/fd/1", tty), "/dev/"), true)
	equal(t, "TERM", p.look("echo $TERM", tty), "xterm")
	equal(t, "without", strings.HasPrefix(p.look("readlink /proc/self/fd/1"), "/dev/pts/"), false)
}

// TestStdin: with stdin a read waits, without one it ends at once.
func TestStdin(t *testing.T) {
	clause(t, "Variables for interactive containers, these have very specialized")
	n := newNode(t)
	p := n.pod()
	waits := p.run(script("echo before; cat; echo after"), func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	without := p.run(script("cat; echo after"))
	equal(t, "exit code without stdin", without.ended().ExitCode, 0)
	eventually(t, "output", func() bool { return strings.Contains(waits.output(), "before") })
	equal(t, "state with stdin", waits.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestExecSync(t *testing.T) {
	clause(t, "ExecSync runs a command in a container synchronously.")
	n := newNode(t)
	c := n.pod().run()
	resp, err := n.runtime.ExecSync(n.ctx(), &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "answer", fmt.Sprintf("%q %q %d", resp.Stdout, resp.Stderr, resp.ExitCode), `"out\n" "err\n" 3`)
	for timeout := int64(1); timeout < 60; timeout *= 2 { // in a time in which it can begin
		_, err = n.runtime.ExecSync(n.ctx(), &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/bin/sh", "-c", "touch /began; sleep 1000"}, Timeout: timeout})
		hasCode(t, "a command that takes too long", err, codes.DeadlineExceeded)
		if _, code := c.exec("test -e /began"); code == 0 {
			break
		}
	}
	equal(t, "what is left of it", c.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 1000 '; test -e /began"), "0")
	_, err = n.runtime.ExecSync(n.ctx(), &runtimeapi.ExecSyncRequest{ContainerId: c.id})
	strict(t, "no command", err, "cmd")
}

// TestOtherSandboxConfig: the pod's own configuration is immutable.
func TestOtherSandboxConfig(t *testing.T) {
	clause(t, "It is passed again here just for easy reference. The PodSandboxConfig is immutable and")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "first" })
	other := n.podConfig(func(c *runtimeapi.PodSandboxConfig) { c.Hostname, c.LogDirectory = "second", p.config.LogDirectory })
	resp, err := n.runtime.CreateContainer(n.ctx(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: other,
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: n.image}, Command: sleeper}})
	if err != nil {
		return // refusing it is as right
	}
	c := &container{p, resp.ContainerId, nil}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	equal(t, "hostname", c.sh("hostname"), "first")
}
