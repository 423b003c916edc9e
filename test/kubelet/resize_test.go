package kubelet_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func init() {
	scenarios["in-place resize"] = resize
}

// resize changes a running container's limits: the manifest keeps its uid, so
// that it is the same pod for the kubelet.
func resize(t *testing.T, n *Node) {
	spec := func(cpu, memory string) v1.PodSpec {
		c := work("c", "sleep-forever")
		c.Resources.Limits = quantities(cpu, memory)
		return v1.PodSpec{Containers: []v1.Container{c}}
	}
	p := n.run(t, spec("200m", "32Mi"))
	pod := p.ready()
	pid := p.pid(pod, "c")
	p.write(spec("400m", "64Mi"))
	group := p.containerGroup(pod, "c")
	n.wait(t, "the new limits", func() bool {
		return quotaOf(t, group) == "40000" && memoryLimit.read(t, group) == "67108864"
	})
	pod = p.ready()
	equal(t, "process", p.pid(pod, "c"), pid)
	equal(t, "restarts", status(pod, "c").RestartCount, 0)
}

// quotaOf is how much of each 100 ms the group may run.
func quotaOf(t *testing.T, group string) string {
	t.Helper()
	quota, _, _ := strings.Cut(cpuQuota.read(t, group), " ") // v2: with the period
	return quota
}
