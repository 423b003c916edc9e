package kubelet_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// pods is how many a node has at most unless its kubelet is told otherwise.
const pods = 110

// TestManyPods starts a node's worth of pods at once, asks each for a page, and takes
// them away.
func TestManyPods(t *testing.T) {
	n := newNode(t, setup{})
	began := time.Now()
	names := map[string]bool{}
	for range pods {
		c := work("c", "serve-http", "8080", "one of many")
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/workload", "get", "http://127.0.0.1:8080"}}}, PeriodSeconds: 10}
		names[n.run(t, v1.PodSpec{Containers: []v1.Container{c}}).Name] = true
	}
	var ready int
	if !within(4*patience, func() bool {
		ready = 0
		for _, pod := range n.podList(t) {
			if names[pod.Name] && isReady(&pod) {
				ready++
			}
		}
		return ready == pods
	}) {
		t.Fatalf("%d pods of %d are ready after %v\n%s", ready, pods, time.Since(began), n.tail())
	}
	t.Logf("%d pods ready after %v", pods, time.Since(began))
	addresses := map[string]bool{}
	for _, pod := range n.podList(t) {
		addresses[pod.Status.PodIP] = true
		equal(t, "page of "+pod.Name, page(t, n.Node.Client(), "http://"+pod.Status.PodIP+":8080"), "one of many")
	}
	equal(t, "addresses", len(addresses), pods)
}
