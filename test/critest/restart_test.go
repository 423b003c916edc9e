package critest_test

import (
	"os/exec"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restarted restarts the runtime and connects again.
func (n *node) restarted() {
	n.Helper()
	if n.private != nil {
		n.private.Restart()
		n.connect("unix://" + n.private.Socket())
		return
	}
	if *restart == "" {
		n.Skip("-restart does not say how this runtime is restarted")
	}
	if out, err := exec.Command("/bin/sh", "-c", *restart).CombinedOutput(); err != nil {
		n.Fatalf("cannot restart the runtime: %v\n%s", err, out)
	}
	n.connect(*endpoint)
	eventually(n.T, "an answer", func() bool {
		_, err := n.runtime.ListPodSandbox(n.ctx(), &runtimeapi.ListPodSandboxRequest{})
		return err == nil
	})
}

// TestRestart: containers run on and go on logging, and what they are is known
// as before.
func TestRestart(t *testing.T) {
	clause(t, "ContainerStatus represents the status of a container.")
	n := newNode(t)
	p := n.pod()
	runs := p.run(script("trap 'echo told; exit 4' TERM; echo before; while :; do sleep 0.05; done"))
	ended := p.run(command("/bin/sh", "-c", "exit 6"))
	ended.ended()
	made, err := p.create()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first line", func() bool { return strings.Contains(runs.output(), "before") })
	was := map[*container]string{runs: runs.status().String(), ended: ended.status().String(), made: made.status().String()}
	address := p.status().GetNetwork().GetIp()
	process := runs.sh("awk '{ print $22 }' /proc/1/stat") // its start
	n.restarted()
	for c, before := range was {
		equal(t, "status", c.status().String(), before)
	}
	equal(t, "address", p.status().GetNetwork().GetIp(), address)
	equal(t, "start of the process", runs.sh("awk '{ print $22 }' /proc/1/stat"), process)
	if err := made.start(); err != nil {
		t.Errorf("a container that was made before: %v", err)
	}
	if _, err := n.runtime.StopContainer(n.ctx(), &runtimeapi.StopContainerRequest{ContainerId: runs.id, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	equal(t, "exit code", runs.status().ExitCode, 4)
	equal(t, "output", runs.output(), "before\ntold\n")
}
