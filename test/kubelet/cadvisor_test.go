package kubelet_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func init() {
	scenarios["cAdvisor's metrics"] = cadvisorMetrics
}

// memoryMetric is one that every source of /metrics/cadvisor tells.
const memoryMetric = "container_memory_working_set_bytes"

// cadvisorMetrics, as long as the kubelet does not ask cri-box for them, are those
// of cgroups, without names: docs/kubernetes.md says so.
func cadvisorMetrics(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{work("c", "sleep-forever")}})
	pod := p.ready()
	id := `id="` + p.cgroupOf(pod) + "/" + containerID(pod, "c") + `"`
	n.wait(t, "the container's metrics", func() bool {
		v, found := n.metric(t, "/metrics/cadvisor", memoryMetric, id)
		return found && v > 0
	})
	if _, found := n.metric(t, "/metrics/cadvisor", memoryMetric, id, `container=""`, `pod=""`, `namespace=""`); !found {
		t.Errorf("the metric has names now: docs/kubernetes.md is wrong")
	}
}

// TestMetricsFromCRI asks for the same with the gate on: the names are there.
func TestMetricsFromCRI(t *testing.T) {
	gates = strings.Replace(gates, "{", "{PodAndContainerStatsFromCRI: true, ", 1)
	defer func() { gates = defaultGates }()
	n := newNode(t)
	const size = 40 << 20 // all of it is touched soon after the start
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{work("c", "eat-memory", "41943040")}})
	p.ready()
	labels := []string{`container="c"`, `pod="` + p.Name + `"`, `namespace="default"`}
	var v float64
	n.wait(t, "the container's memory by its names", func() bool {
		v, _ = n.metric(t, "/metrics/cadvisor", memoryMetric, labels...)
		return v > size*0.9
	})
	near(t, "working set", v, size, 0.3)
	n.wait(t, "the pod's network", func() bool {
		_, found := n.metric(t, "/metrics/cadvisor", "container_network_receive_bytes_total", labels[1:]...)
		return found
	})
	var bytes float64
	n.wait(t, "the summary", func() bool {
		s := p.summary("c")
		if s == nil || s.Memory == nil || s.Memory.WorkingSetBytes == nil {
			return false
		}
		bytes = float64(*s.Memory.WorkingSetBytes)
		return bytes > size*0.9
	})
	near(t, "working set in the summary", bytes, size, 0.3)
}
