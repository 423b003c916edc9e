package kubelet_test

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
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
// the numbers are the kernel's, in the metrics and in the summary.
func TestMetricsFromCRI(t *testing.T) {
	n := newNode(t, setup{gates: ", PodAndContainerStatsFromCRI: true"})
	eats := work("eats", "eat-memory", fmt.Sprint(40*mib))
	eats.Resources.Limits = quantities("", "64Mi")
	spins := sh("spins", "timeout 10 /bin/workload spin; sleep 100000") // its count stands still when it is compared
	spins.Resources.Limits = quantities("300m", "")
	writes := sh("writes", "dd if=/dev/zero of=/file bs=1M count=24; sleep 100000 & sleep 100000 & wait")
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{eats, spins, writes, serving(8080, strings.Repeat("x", 100_000))}})
	pod := p.ready()
	for range 10 {
		page(t, n.Node.Client(), "http://"+pod.Status.PodIP+":8080") // sent by the pod
	}
	podLabels := []string{`pod="` + p.Name + `"`, `namespace="default"`}
	metric := func(name, container string) func() float64 {
		labels := podLabels
		if container != "" {
			labels = append(labels[:2:2], `container="`+container+`"`)
		}
		return func() float64 {
			v, _ := n.metric(t, "/metrics/cadvisor", name, labels...)
			return v
		}
	}
	group := func(container string) string { return p.containerGroup(pod, container) }
	memory := func() float64 { return number(t, memoryUsage.read(t, group("eats"))) }
	processor := func() float64 { return cpuSeconds(t, group("spins")) }
	written := func() float64 { return 24 * mib }
	sent := func() float64 { return transmitted(t, p.pid(pod, "c")) }
	for _, m := range []struct {
		name         string
		part         float64
		told, kernel func() float64
	}{
		{"memory", 0.2, metric(memoryMetric, "eats"), memory},
		{"memory limit", 0, metric("container_spec_memory_limit_bytes", "eats"), func() float64 { return number(t, memoryLimit.read(t, group("eats"))) }},
		{"processor", 0, metric("container_cpu_usage_seconds_total", "spins"), func() float64 { return math.Floor(processor()) }}, // the CRI has whole numbers
		{"processes", 0, metric("container_processes", "writes"), func() float64 {
			return float64(len(strings.Fields(processes.read(t, group("writes")))))
		}},
		{"written", 0.05, metric("container_fs_usage_bytes", "writes"), written},
		{"sent", 0.05, metric("container_network_transmit_bytes_total", ""), sent},
		{"memory in the summary", 0.2, p.summarized("eats", func(c stats.ContainerStats) *uint64 { return c.Memory.WorkingSetBytes }), memory},
		{"processor in the summary", 0.1, p.summarized("spins", func(c stats.ContainerStats) *uint64 { return c.CPU.UsageCoreNanoSeconds }),
			func() float64 { return processor() * 1e9 }},
		{"written in the summary", 0.05, p.summarized("writes", func(c stats.ContainerStats) *uint64 { return c.Rootfs.UsedBytes }), written},
		{"sent in the summary", 0.05, func() float64 { return sentBytes(p.podSummary()) }, sent},
	} {
		var told, kernel float64
		within(patience, func() bool { // what is told was so some seconds ago
			told, kernel = m.told(), m.kernel()
			return told > 0 && told >= kernel*(1-m.part) && told <= kernel*(1+m.part)
		})
		near(t, m.name, told, kernel, m.part)
	}
}

// summarized reads one number of a container's out of the summary, 0 if it is not there yet.
func (p *Pod) summarized(container string, number func(stats.ContainerStats) *uint64) func() float64 {
	return func() float64 {
		c := p.summary(container)
		if c == nil || c.Memory == nil || c.CPU == nil || c.Rootfs == nil || number(*c) == nil {
			return 0
		}
		return float64(*number(*c))
	}
}

// sentBytes is how much a pod's network is said to have sent.
func sentBytes(pod stats.PodStats) float64 {
	if pod.Network == nil || pod.Network.TxBytes == nil {
		return 0
	}
	return float64(*pod.Network.TxBytes)
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
