package kubelet_test

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func init() {
	scenarios["grpc probe"] = grpcProbe
	scenarios["http probe that fails"] = httpProbeThatFails
}

// grpcProbe is ready as long as the service says that it serves.
func grpcProbe(t *testing.T, n *Node) {
	c := work("c", "serve-grpc", "9000", "/tmp/serving")
	c.ReadinessProbe = every(v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: 9000}}})
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c}})
	pod := p.ready()
	file := p.inside(pod, "c", "/tmp/serving")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.until("readiness to end", func(pod *v1.Pod) bool { return !isReady(pod) })
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	equal(t, "restarts", status(p.ready(), "c").RestartCount, 0)
}

// httpProbeThatFails: who listens on another port than the probe asks is started
// again, once it has had its time.
func httpProbeThatFails(t *testing.T, n *Node) {
	dir, volume := n.hostDir(t)
	c := mounted(sh("c", "echo start >>/notes/starts; exec /bin/workload serve-http 8080 hello"), "host", "/notes")
	c.LivenessProbe = every(v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8081)}}})
	p := n.run(t, v1.PodSpec{Volumes: []v1.Volume{volume}, Containers: []v1.Container{c}})
	pod := p.until("a restart", func(pod *v1.Pod) bool { return status(pod, "c").RestartCount > 0 })
	last := status(pod, "c").LastTerminationState.Terminated
	if last == nil || last.ExitCode == 0 {
		t.Errorf("the kubelet tells of the first container: %+v", last)
	}
	n.wait(t, "a second start", func() bool { return countLines(filepath.Join(dir, "starts")) > 1 })
}
