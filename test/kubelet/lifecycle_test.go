package kubelet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func init() {
	scenarios["liveness"] = liveness
	scenarios["back-off"] = backOff
	scenarios["restart policies"] = restartPolicies
	scenarios["init containers"] = initContainers
	scenarios["out of memory"] = outOfMemory
	scenarios["grace"] = grace
	scenarios["impatience"] = impatience
	scenarios["hooks that fail"] = hooksThatFail
	scenarios["stop signal"] = stopSignal
}

// liveness restarts a container, and only that one, when its probe fails.
func liveness(t *testing.T, n *Node) {
	c := sh("c", "sleep 1000")
	c.LivenessProbe = every(v1.Probe{ProbeHandler: script("test ! -e /tmp/dead")})
	c.LivenessProbe.TimeoutSeconds = seconds(5 * time.Second) // one that is slow is a restart more
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c, sh("other", "sleep 1000")}})
	pod := p.ready()
	first, process, other := containerID(pod, "c"), p.pid(pod, "c"), p.pid(pod, "other")
	if err := os.WriteFile(p.inside(pod, "c", "/tmp/dead"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pod = p.until("a restart", func(pod *v1.Pod) bool {
		return status(pod, "c").RestartCount == 1 && isReady(pod)
	})
	last := status(pod, "c").LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 || !strings.HasSuffix(last.ContainerID, first) {
		t.Errorf("the kubelet tells of the first container: %+v", last)
	}
	equal(t, "the first process lives", harness.Alive(process), false)
	equal(t, "process of the other container", p.pid(pod, "other"), other)
}

// backOff waits before it starts again what ended at once, 10 s at first.
func backOff(t *testing.T, n *Node) {
	dir, volume := n.hostDir(t)
	p := n.run(t, v1.PodSpec{Volumes: []v1.Volume{volume}, Containers: []v1.Container{mounted(sh("c", "date +%s >>/notes/starts; exit 3"), "host", "/notes")}})
	// Whether the kubelet ever shows CrashLoopBackOff depends on what else has it look at
	// the pod before that is over.
	pod := p.until("two restarts", func(pod *v1.Pod) bool {
		c := status(pod, "c")
		return c.RestartCount >= 2 && c.LastTerminationState.Terminated != nil
	})
	equal(t, "exit code", status(pod, "c").LastTerminationState.Terminated.ExitCode, 3)
	var starts []string
	n.wait(t, "three starts", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "starts"))
		starts = strings.Fields(string(text))
		return len(starts) >= 3
	})
	second, _ := strconv.Atoi(starts[1])
	third, _ := strconv.Atoi(starts[2])
	if third-second < 9 {
		t.Errorf("the container started at %q: the last two are less than 9 s apart", starts)
	}
}

// restartPolicies end as they should, and start as often.
func restartPolicies(t *testing.T, n *Node) {
	exits := func(policy v1.RestartPolicy, code int) (p *Pod, runs func() int) {
		dir, volume := n.hostDir(t)
		script := fmt.Sprintf("echo run >>/notes/runs; exit %d", code)
		p = n.run(t, v1.PodSpec{RestartPolicy: policy, Volumes: []v1.Volume{volume}, Containers: []v1.Container{mounted(sh("c", script), "host", "/notes")}})
		return p, func() int { return countLines(filepath.Join(dir, "runs")) }
	}
	for _, c := range []struct {
		policy v1.RestartPolicy
		code   int
		phase  v1.PodPhase
	}{
		{v1.RestartPolicyNever, 0, v1.PodSucceeded},
		{v1.RestartPolicyNever, 7, v1.PodFailed},
		{v1.RestartPolicyOnFailure, 0, v1.PodSucceeded},
	} {
		p, runs := exits(c.policy, c.code)
		pod := p.until(string(c.phase), func(pod *v1.Pod) bool { return pod.Status.Phase == c.phase })
		ended := status(pod, "c").State.Terminated
		if ended == nil || int(ended.ExitCode) != c.code || status(pod, "c").RestartCount != 0 || runs() != 1 {
			t.Errorf("%s, exit code %d: it ran %d times, %+v", c.policy, c.code, runs(), status(pod, "c"))
		}
	}
	for _, c := range []struct {
		policy v1.RestartPolicy
		code   int
	}{{v1.RestartPolicyAlways, 0}, {v1.RestartPolicyOnFailure, 1}} {
		p, runs := exits(c.policy, c.code)
		p.until("a restart", func(pod *v1.Pod) bool { return status(pod, "c").RestartCount > 0 })
		n.wait(t, "a second run", func() bool { return runs() > 1 })
	}
}

func countLines(path string) int {
	text, _ := os.ReadFile(path)
	return strings.Count(string(text), "\n")
}

// initContainers run one after the other, each to its end; a sidecar starts among
// them, stays, and ends after the others.
func initContainers(t *testing.T, n *Node) {
	dir, volume := n.hostDir(t)
	note := func(c v1.Container) v1.Container { return mounted(c, "host", "/notes") }
	sidecar := note(sh("sidecar", "trap 'echo sidecar ends >>/notes/order; exit 0' TERM; echo sidecar >>/notes/order; while :; do sleep 0.1; done"))
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = every(v1.Probe{ProbeHandler: script("grep -q sidecar /notes/order")})
	sidecar.StartupProbe.FailureThreshold = 30
	p := n.run(t, v1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](20),
		Volumes:                       []v1.Volume{volume},
		InitContainers: []v1.Container{
			note(sh("first", "sleep 1; echo first >>/notes/order")), sidecar,
			note(sh("last", "echo last >>/notes/order")),
		},
		Containers: []v1.Container{note(sh("main", "trap 'sleep 1; echo main ends >>/notes/order; exit 0' TERM; echo main >>/notes/order; while :; do sleep 0.1; done"))},
	})
	p.ready()
	p.delete()
	want := "first\nsidecar\nlast\nmain\nmain ends\nsidecar ends\n"
	var got []byte
	if !within(patience, func() bool { got, _ = os.ReadFile(filepath.Join(dir, "order")); return string(got) == want }) {
		t.Errorf("order: got %q, want %q", got, want)
	}
}

// outOfMemory is told as what it is.
func outOfMemory(t *testing.T, n *Node) {
	c := work("c", "eat-memory", fmt.Sprint(64<<20))
	c.Resources.Limits = quantities("", "32Mi")
	kills := oomKills(t)
	p := n.run(t, v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{c}})
	pod := p.until("the end", func(pod *v1.Pod) bool { return status(pod, "c").State.Terminated != nil })
	ended := status(pod, "c").State.Terminated
	if ended.Reason != "OOMKilled" || ended.ExitCode != 137 {
		t.Errorf("reason %q, exit code %d; want OOMKilled and 137", ended.Reason, ended.ExitCode)
	}
	if oomKills(t) == kills {
		t.Error("the kernel killed nobody")
	}
}

// oomKills is how many processes the kernel has killed for want of memory.
func oomKills(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "oom_kill ")
	line, _, _ := strings.Cut(rest, "\n")
	return int(number(t, line))
}

// grace: preStop runs first, SIGTERM comes after it, and the container has its
// time to end.
func grace(t *testing.T, n *Node) {
	dir, volume := n.hostDir(t)
	c := mounted(sh("c", "trap 'echo term >>/notes/order; sleep 2; echo end >>/notes/order; exit 0' TERM; while :; do sleep 0.1; done"), "host", "/notes")
	c.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: script("echo started >>/notes/order").Exec},
		PreStop:   &v1.LifecycleHandler{Exec: script("echo stopping >>/notes/order; sleep 1; echo stop >>/notes/order").Exec},
	}
	p := n.run(t, v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](30), Volumes: []v1.Volume{volume}, Containers: []v1.Container{c}})
	group := p.cgroupOf(p.ready())
	p.delete()
	n.wait(t, "the pod's cgroup to go", func() bool { return !exists(group) })
	got, _ := os.ReadFile(filepath.Join(dir, "order"))
	equal(t, "order", string(got), "started\nstopping\nstop\nterm\nend\n")
}

// impatience: who ignores SIGTERM is killed when the grace is over, not before
// and not much later.
func impatience(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](4), Containers: []v1.Container{work("c", "ignore-term")}})
	pod := p.ready()
	process := fmt.Sprintf("/proc/%d", p.pid(pod, "c"))
	began := time.Now() // before: the kubelet may take its time to answer
	p.delete()
	n.wait(t, "SIGTERM", func() bool {
		text, _ := n.api.get("/metrics")
		return strings.Contains(text, "kubelet_") // the kubelet answers while it waits
	})
	n.wait(t, "the process to be killed", func() bool { _, err := os.Stat(process); return err != nil })
	if took := time.Since(began); took < 3*time.Second || took > harness.Long(20*time.Second) {
		t.Errorf("killed after %v, the grace is 4 s", took)
	}
}

// hooksThatFail: a postStart that fails ends its container, which is started
// again.
func hooksThatFail(t *testing.T, n *Node) {
	dir, volume := n.hostDir(t)
	c := mounted(sh("c", "echo $$ >>/notes/starts; sleep 1000"), "host", "/notes")
	c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: script("echo >>/notes/hooks; exit 9").Exec}}
	p := n.run(t, v1.PodSpec{Volumes: []v1.Volume{volume}, Containers: []v1.Container{c}})
	pod := p.until("the hook's failure", func(pod *v1.Pod) bool { return status(pod, "c").RestartCount > 0 })
	equal(t, "readiness", isReady(pod), false)
	n.wait(t, "a second start and its hook", func() bool {
		return countLines(filepath.Join(dir, "starts")) > 1 && countLines(filepath.Join(dir, "hooks")) > 1
	})
}

// stopSignal: an image names the signal that ends its containers, and a container another.
func stopSignal(t *testing.T, n *Node) {
	b := imagetest.New()
	harness.AddBusybox(t, b)
	b.Config(func(c *ocispec.ImageConfig) { c.StopSignal = "SIGUSR1" })
	image := n.Push("stops-by-usr1", b.Build())
	for want, own := range map[string]*v1.Signal{"USR1": nil, "USR2": ptr.To(v1.SIGUSR2)} {
		dir, volume := n.hostDir(t)
		trap := ""
		for _, s := range []string{"USR1", "USR2", "TERM"} {
			trap += fmt.Sprintf("trap 'echo %[1]s >/notes/signal; exit 0' %[1]s; ", s)
		}
		c := mounted(sh("c", trap+"while :; do sleep 0.1; done"), "host", "/notes")
		c.Image = image
		spec := v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](60), Volumes: []v1.Volume{volume}}
		if own != nil {
			c.Lifecycle, spec.OS = &v1.Lifecycle{StopSignal: own}, &v1.PodOS{Name: v1.Linux}
		}
		spec.Containers = []v1.Container{c}
		p := n.run(t, spec)
		p.ready()
		p.delete()
		var got []byte
		n.wait(t, "a signal", func() bool {
			got, _ = os.ReadFile(filepath.Join(dir, "signal"))
			return strings.HasSuffix(string(got), "\n")
		})
		equal(t, "signal", string(got), want+"\n")
	}
}
