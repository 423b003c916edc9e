package kubelet_test

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// scenarios are what one node does at the same time: none disturbs another.
var scenarios = map[string]func(*testing.T, *Node){}

// TestPods runs all of them side by side.
func TestPods(t *testing.T) { sideBySide(t, newNode(t, setup{}), scenarios) }

func sideBySide(t *testing.T, n *Node, all map[string]func(*testing.T, *Node)) {
	t.Run("all", func(t *testing.T) {
		for name, scenario := range all {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scenario(t, n)
			})
		}
	})
}

func init() {
	scenarios["readiness"] = readiness
	scenarios["http probe"] = httpProbe
}

// every probe looks each second and believes the first answer, which takes an
// emulated machine longer.
func every(p v1.Probe) *v1.Probe {
	p.PeriodSeconds, p.FailureThreshold, p.TimeoutSeconds = 1, 1, seconds(time.Second)
	return &p
}

// seconds are so many, and more on an emulated machine.
func seconds(d time.Duration) int32 { return int32(harness.Long(d) / time.Second) }

// script is a probe that runs a script in the container.
func script(text string) v1.ProbeHandler {
	return v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", text}}}
}

// readiness follows an exec probe: the test takes the file away that it looks for.
func readiness(t *testing.T, n *Node) {
	c := sh("c", "touch /tmp/ok; sleep 1000")
	c.ReadinessProbe = every(v1.Probe{ProbeHandler: script("test -e /tmp/ok")})
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c}})
	pod := p.ready()
	file := p.inside(pod, "c", "/tmp/ok")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.until("readiness to end", func(pod *v1.Pod) bool { return !isReady(pod) })
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	equal(t, "restarts", status(p.ready(), "c").RestartCount, 0)
}

// httpProbe reaches the pod's address, as the test does.
func httpProbe(t *testing.T, n *Node) {
	c := work("c", "serve-http", "8080", "hello")
	c.ReadinessProbe = every(v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}})
	closed := work("closed", "sleep-forever")
	closed.ReadinessProbe = every(v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(8081)}}})
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c, closed}})
	pod := p.until("the first container's readiness", func(pod *v1.Pod) bool { return status(pod, "c").Ready })
	equal(t, "readiness of a closed port", status(pod, "closed").Ready, false)
	equal(t, "readiness of the pod", isReady(pod), false)
	resp, err := n.Node.Client().Get("http://" + pod.Status.PodIP + ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	equal(t, "page", string(body), "hello")
}
