package kubelet_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func init() {
	scenarios["cAdvisor's metrics"] = cadvisorMetrics
}

// Metrics that both sources of /metrics/cadvisor tell.
const (
	memoryMetric  = "container_memory_working_set_bytes"
	networkMetric = "container_network_receive_bytes_total"
)

// cadvisorMetrics, as long as the kubelet does not ask cri-box for them, are those
// of cgroups, without names and networks: docs/kubernetes.md says so.
func cadvisorMetrics(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{work("c", "eat-memory", fmt.Sprint(40*mib))}})
	pod := p.ready()
	group := p.containerGroup(pod, "c")
	id := `id="` + group + `"`
	n.wait(t, "the container's metrics", func() bool {
		v, found := n.metric(t, "/metrics/cadvisor", memoryMetric, id)
		return found && v > 30*mib
	})
	v, found := n.metric(t, "/metrics/cadvisor", memoryMetric, id, `container=""`, `pod=""`, `namespace=""`)
	if !found {
		t.Errorf("the metric has names now: docs/kubernetes.md is wrong")
	}
	near(t, "working set", v, number(t, memoryUsage.read(t, group)), 0.2)
	if _, found := n.metric(t, "/metrics/cadvisor", networkMetric, `id="`+p.cgroupOf(pod)); found {
		t.Errorf("the pod has network metrics now: docs/kubernetes.md is wrong")
	}
}

func number(t testing.TB, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMetricsFromCRI asks for the same with the gate on: the names are there, and
// the numbers are the kernel's.
func TestMetricsFromCRI(t *testing.T) {
	n := newNode(t, setup{gates: ", PodAndContainerStatsFromCRI: true"})
	eats := work("eats", "eat-memory", fmt.Sprint(40*mib))
	eats.Resources.Limits = quantities("", "64Mi")
	spins := work("spins", "spin")
	spins.Resources.Limits = quantities("100m", "")
	writes := sh("writes", "dd if=/dev/zero of=/file bs=1M count=24; sleep 100000 & sleep 100000 & wait")
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{eats, spins, writes, serving(8080, strings.Repeat("x", 100_000))}})
	pod := p.ready()
	for range 10 {
		page(t, n.Node.Client(), "http://"+pod.Status.PodIP+":8080") // sent by the pod
	}
	podLabels := []string{`pod="` + p.Name + `"`, `namespace="default"`}
	of := func(container string) []string { return append(podLabels, `container="`+container+`"`) }
	group := func(container string) string { return p.containerGroup(pod, container) }
	for _, m := range []struct {
		name   string
		labels []string
		part   float64
		kernel func() float64
	}{
		{memoryMetric, of("eats"), 0.2, func() float64 { return number(t, memoryUsage.read(t, group("eats"))) }},
		{"container_spec_memory_limit_bytes", of("eats"), 0, func() float64 { return number(t, memoryLimit.read(t, group("eats"))) }},
		{"container_cpu_usage_seconds_total", of("spins"), 0.1, func() float64 { return cpuSeconds(t, group("spins")) }},
		{"container_processes", of("writes"), 0, func() float64 {
			return float64(len(strings.Fields(processes.read(t, group("writes")))))
		}},
		{"container_fs_usage_bytes", of("writes"), 0.05, func() float64 { return 24 * mib }},
		{"container_network_transmit_bytes_total", podLabels, 0.05, func() float64 { return transmitted(t, p.pid(pod, "c")) }},
	} {
		var told, kernel float64
		within(patience, func() bool { // what a metric tells was so some seconds ago
			kernel = m.kernel()
			told, _ = n.metric(t, "/metrics/cadvisor", m.name, m.labels...)
			return told > 0 && told >= kernel*(1-m.part) && told <= kernel*(1+m.part)
		})
		near(t, m.name, told, kernel, m.part)
	}
	var bytes float64
	n.wait(t, "the summary", func() bool {
		s := p.summary("eats")
		if s == nil || s.Memory == nil || s.Memory.WorkingSetBytes == nil {
			return false
		}
		bytes = float64(*s.Memory.WorkingSetBytes)
		return bytes > 36*mib
	})
	near(t, "working set in the summary", bytes, number(t, memoryUsage.read(t, group("eats"))), 0.2)
}

// cpuSeconds is how long a group ran, by the kernel's count.
func cpuSeconds(t *testing.T, group string) float64 {
	t.Helper()
	if !unified() {
		return number(t, cpuUsage.read(t, group)) / 1e9
	}
	_, rest, _ := strings.Cut(cpuUsage.read(t, group), "usage_usec ")
	line, _, _ := strings.Cut(rest, "\n")
	return number(t, line) / 1e6
}

// transmitted is how many bytes a process's eth0 has sent.
func transmitted(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "eth0:")
	f := strings.Fields(rest)
	if len(f) < 9 {
		t.Fatalf("there is no eth0 in %s", text)
	}
	return number(t, f[8])
}
