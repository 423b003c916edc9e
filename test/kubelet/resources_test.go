package kubelet_test

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func init() {
	scenarios["quality of service"] = qualityOfService
}

// quantities is a list of processor and memory; "" leaves one out.
func quantities(cpu, memory string) v1.ResourceList {
	list := v1.ResourceList{}
	if cpu != "" {
		list[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return list
}

// exists says whether a cgroup is there in any hierarchy.
func exists(group string) bool {
	for _, h := range hierarchies() {
		if _, err := os.Stat(filepath.Join(h, group)); err == nil {
			return true
		}
	}
	return false
}

// v2 is the same in the words of cgroup v2.
type v2 struct{ weight, max, limit string }

// qualityOfService finds each container in the cgroup of its class, with its
// limits, below the pod's.
func qualityOfService(t *testing.T, n *Node) {
	for _, c := range []struct {
		class                     v1.PodQOSClass
		requests, limits          v1.ResourceList
		shares, quota, limitBytes string
		v2                        v2
	}{
		{v1.PodQOSGuaranteed, nil, quantities("500m", "48Mi"), "512", "50000", "50331648",
			v2{"59", "50000 100000", "50331648"}},
		{v1.PodQOSBurstable, quantities("250m", "16Mi"), quantities("", "32Mi"), "256", "-1", "33554432",
			v2{"35", "max 100000", "33554432"}},
		{v1.PodQOSBestEffort, nil, nil, "2", "-1", "9223372036854771712",
			v2{"1", "max 100000", "max"}},
	} {
		container := work("c", "sleep-forever")
		container.Resources = v1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
		p := n.run(t, v1.PodSpec{Containers: []v1.Container{container}})
		pod := p.ready()
		equal(t, "class", pod.Status.QOSClass, c.class)
		group := p.containerGroup(pod, "c")
		if unified() {
			c.shares, c.quota, c.limitBytes = c.v2.weight, c.v2.max, c.v2.limit
		}
		equal(t, string(c.class)+": shares", cpuShares.read(t, group), c.shares)
		equal(t, string(c.class)+": quota", cpuQuota.read(t, group), c.quota)
		equal(t, string(c.class)+": memory", memoryLimit.read(t, group), c.limitBytes)
		equal(t, string(c.class)+": memory of the pod", memoryLimit.read(t, filepath.Dir(group)), c.limitBytes)
	}
}
