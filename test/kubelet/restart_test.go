package kubelet_test

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestRestarts takes each program away under running pods, one after the other,
// gently and with SIGKILL. No pod may notice: same processes, no restart, ready,
// no line lost, and no probe that fails for more than one period.
func TestRestarts(t *testing.T) {
	n := newNode(t, setup{})
	pods := map[string]*Pod{
		"probed by exec": n.run(t, v1.PodSpec{Containers: []v1.Container{probedByExec()}}),
		"probed by http": n.run(t, v1.PodSpec{Containers: []v1.Container{probedByHTTP()}}),
		"counter":        n.run(t, v1.PodSpec{Containers: []v1.Container{work("c", "count", "20")}}),
	}
	pids, uids := map[string]int{}, map[string]string{}
	for name, p := range pods {
		pod := p.ready()
		pids[name], uids[name] = p.pid(pod, "c"), string(pod.UID)
	}
	binary := kubeletBinary(t)
	for _, step := range []struct {
		name string
		do   func()
		own  bool // of cri-box, which the peer has not
	}{
		{"the daemon restarts", func() { n.stopRuntime(t, syscall.SIGTERM); n.startRuntimeAgain(t) }, false},
		{"the daemon is killed", func() { n.stopRuntime(t, syscall.SIGKILL); n.startRuntimeAgain(t) }, false},
		{"the keeper is killed", func() { n.newKeeper() }, true},
		{"daemon and keeper are killed one after the other", func() { n.Kill(); n.Start(); n.newKeeper() }, true},
		{"the kubelet restarts", func() { n.stopKubelet(t, syscall.SIGTERM); n.startKubelet(t, binary) }, false},
		{"the kubelet is killed", func() { n.stopKubelet(t, syscall.SIGKILL); n.startKubelet(t, binary) }, false},
	} {
		if step.own && n.peer != nil {
			continue
		}
		failed := n.failedProbes(t)
		if strings.HasPrefix(step.name, "the kubelet") {
			clear(failed) // it counts anew
		}
		step.do()
		n.twoMoreProbes(t)
		for name, p := range pods {
			pod := p.ready()
			equal(t, step.name+": process of "+name, p.pid(pod, "c"), pids[name])
			equal(t, step.name+": restarts of "+name, status(pod, "c").RestartCount, 0)
			equal(t, step.name+": uid of "+name, string(pod.UID), uids[name])
		}
		for probe, count := range n.failedProbes(t) {
			if count-failed[probe] > 1 {
				t.Errorf("%s: %s failed %v times", step.name, probe, count-failed[probe])
			}
		}
	}
	// A probe and a removal work as before.
	p := pods["probed by exec"]
	if err := os.Remove(p.inside(p.get(), "c", "/tmp/ok")); err != nil {
		t.Fatal(err)
	}
	p.until("the probe to fail", func(pod *v1.Pod) bool { return !isReady(pod) })
	checkCount(t, pods["counter"])
}

// probedByExec has a readiness and a liveness probe each second.
func probedByExec() v1.Container {
	c := sh("c", "touch /tmp/ok; sleep 100000")
	c.ReadinessProbe, c.LivenessProbe = often(script("test -e /tmp/ok")), often(script("true"))
	c.LivenessProbe.FailureThreshold = 2
	return c
}

func probedByHTTP() v1.Container {
	c := work("c", "serve-http", "8080", "hello")
	get := v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}
	c.ReadinessProbe, c.LivenessProbe = often(get), often(get)
	c.LivenessProbe.FailureThreshold = 2
	return c
}

// often is a probe each second; on an emulated machine, where a start takes some, less often.
func often(h v1.ProbeHandler) *v1.Probe {
	p := every(v1.Probe{ProbeHandler: h})
	p.PeriodSeconds = seconds(time.Second)
	return p
}

// failedProbes says how often each probe has failed so far.
func (n *Node) failedProbes(t *testing.T) map[string]float64 {
	t.Helper()
	failed := map[string]float64{}
	for _, pod := range n.podList(t) {
		for _, kind := range []string{"Readiness", "Liveness"} {
			failed[kind+" probe of "+pod.Name], _ = n.metric(t, "/metrics/probes", "prober_probe_total",
				`result="failed"`, `pod="`+pod.Name+`"`, `probe_type="`+kind+`"`)
		}
	}
	return failed
}

// newKeeper kills the keeper and waits for the next.
func (n *Node) newKeeper() {
	old := n.KillKeeper()
	n.Wait("another keeper", func() bool { k := n.Keeper(); return k != 0 && k != old })
}

// twoMoreProbes waits until each probe has had its turn again, twice on average.
func (n *Node) twoMoreProbes(t *testing.T) {
	t.Helper()
	probes := func() float64 {
		sum, _ := n.metric(t, "/metrics/probes", "prober_probe_total")
		return sum
	}
	before := probes()
	n.wait(t, "probes to go on", func() bool { return probes() >= before+8 })
}

// checkCount wants every number once, in order, from 0 to the last written.
func checkCount(t *testing.T, p *Pod) {
	t.Helper()
	pod := p.ready()
	var lines []harness.LogLine
	before := len(p.logs(pod, "c"))
	p.wait(t, "the counter to go on", func() bool { lines = p.logs(pod, "c"); return len(lines) > before+5 })
	for i, l := range lines {
		if l.Text != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q: lines were lost or repeated", i, l.Text)
		}
	}
}
