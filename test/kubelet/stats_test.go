package kubelet_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	v1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func init() {
	scenarios["statistics"] = statistics
}

// statistics: the summary and the resource metrics say what the kernel says.
func statistics(t *testing.T, n *Node) {
	const size = 40 << 20
	spin := work("spin", "spin")
	spin.Resources.Limits = quantities("100m", "64Mi")
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{work("c", "eat-memory", fmt.Sprint(size)), spin}})
	pod := p.ready()
	var c, s *stats.ContainerStats
	n.wait(t, "statistics of both containers", func() bool {
		c, s = p.summary("c"), p.summary("spin")
		return c != nil && s != nil && c.Memory != nil && c.Memory.WorkingSetBytes != nil && *c.Memory.WorkingSetBytes > size*9/10 &&
			// A tenth of a processor is its limit, which a short window may exceed.
			s.CPU != nil && s.CPU.UsageNanoCores != nil && *s.CPU.UsageNanoCores > 4e7 && *s.CPU.UsageNanoCores < 16e7
	})
	kernel, err := strconv.ParseFloat(memoryUsage.read(t, p.containerGroup(pod, "c")), 64)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "working set in the summary", float64(*c.Memory.WorkingSetBytes), kernel, 0.2)
	metric, _ := n.metric(t, "/metrics/resource", memoryMetric, `container="c"`, `pod="`+p.Name+`"`)
	near(t, "working set in the metrics", metric, kernel, 0.2)
}

// near wants a number within a part of another.
func near(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	if got < want*(1-part) || got > want*(1+part) {
		t.Errorf("%s: got %v, want %v within %v %%", what, got, want, part*100)
	}
}

// summary returns what /stats/summary tells of a container, or nil.
func (p *Pod) summary(container string) *stats.ContainerStats {
	p.t.Helper()
	for _, c := range p.podSummary().Containers {
		if c.Name == container {
			return &c
		}
	}
	return nil
}

// podSummary is what it tells of the pod, if anything.
func (p *Pod) podSummary() (pod stats.PodStats) {
	p.t.Helper()
	text, err := p.api.get("/stats/summary")
	if err != nil {
		return pod
	}
	var s stats.Summary
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		p.t.Fatal(err)
	}
	for _, pod := range s.Pods {
		if pod.PodRef.Name == p.Name {
			return pod
		}
	}
	return pod
}
