package kubelet_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

func init() {
	withAPI["ephemeral container"] = ephemeralContainer
}

// ephemeralContainer joins a running container's PID namespace, as kubectl debug
// --target does, with a file system of its own, and sees the target's processes.
func ephemeralContainer(t *testing.T, n *Node) {
	p := n.create(t, v1.PodSpec{Containers: []v1.Container{work("target", "sleep-forever"), work("other", "sleep-forever")}})
	pod := p.ready()
	target := p.pid(pod, "target")
	p.change(func(pod *v1.Pod) {
		c := sh("debugger", "sleep 100000")
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, v1.EphemeralContainer{
			TargetContainerName: "target",
			EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: c.Name, Image: c.Image, Command: c.Command, ImagePullPolicy: v1.PullIfNotPresent,
				TerminationMessagePath: v1.TerminationMessagePathDefault, TerminationMessagePolicy: v1.TerminationMessageReadFile},
		})
	})
	pod = p.until("the debugger", func(pod *v1.Pod) bool { return status(pod, "debugger").State.Running != nil })
	equal(t, "restarts of the target", status(pod, "target").RestartCount, 0)
	equal(t, "process of the target", p.pid(pod, "target"), target)
	debugger := p.pid(pod, "debugger")
	for kind, same := range map[string]bool{"pid": true, "net": true, "ipc": true, "uts": true, "mnt": false} {
		equal(t, "same "+kind+" namespace", harness.Namespace(debugger, kind) == harness.Namespace(target, kind), same)
	}
	equal(t, "same pid namespace as the other", harness.Namespace(debugger, "pid") == harness.Namespace(p.pid(pod, "other"), "pid"), false)
	// It sees the target as process 1, and reaches its files.
	command, err := os.ReadFile(p.inside(pod, "debugger", "/proc/1/cmdline"))
	equal(t, "process 1", strings.ReplaceAll(string(command), "\x00", " "), "/bin/workload sleep-forever ")
	if err != nil {
		t.Error(err)
	}
	out, err := p.sync("debugger", "ls", "/proc/1/root/bin")
	if err != nil || !strings.Contains(out, "probe") {
		t.Errorf("the target's files: %q, %v", out, err)
	}
	// It ends without the target.
	if out, err := p.sync("debugger", "kill", "-9", insideID(t, debugger)); err != nil {
		t.Errorf("%s, %v", out, err)
	}
	pod = p.until("the debugger's end", func(pod *v1.Pod) bool { return status(pod, "debugger").State.Terminated != nil })
	equal(t, "exit code of the debugger", status(pod, "debugger").State.Terminated.ExitCode, 137)
	equal(t, "process of the target", p.pid(pod, "target"), target)
}

// insideID is a process's number in the innermost of its PID namespaces.
func insideID(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	f := strings.Fields(line)
	if len(f) < 2 {
		t.Fatalf("process %d has the numbers %q", pid, line)
	}
	if _, err := strconv.Atoi(f[len(f)-1]); err != nil {
		t.Fatal(err)
	}
	return f[len(f)-1]
}
