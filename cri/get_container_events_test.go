package cri

import (
	"testing"
	"time"

	"github.com/cri-box/cri-box/sandbox"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEvent: an event that is sent late shows what was when it happened, and of
// its own pod only.
func TestEvent(t *testing.T) {
	pod := &sandbox.Pod{ID: "p", ReadyAt: time.Unix(1, 0), Config: sandbox.Message[*runtimeapi.PodSandboxConfig]{Of: &runtimeapi.PodSandboxConfig{}}}
	ctr := func(id, pod string) *sandbox.Container {
		return &sandbox.Container{ID: id, PodID: pod, Made: true, Config: sandbox.Message[*runtimeapi.ContainerConfig]{Of: &runtimeapi.ContainerConfig{}}}
	}
	e := sandbox.Event{Kind: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, ID: "a", At: time.Unix(7, 8), Pod: pod,
		Snapshot: &sandbox.Snapshot{Containers: []*sandbox.Container{ctr("a", "p"), ctr("b", "other"), ctr("c", "p")}}}
	got := (&Server{}).event(e)
	if got.ContainerId != "a" || got.CreatedAt != 7000000008 || got.ContainerEventType != e.Kind || got.PodSandboxStatus.GetId() != "p" {
		t.Errorf("got %v", got)
	}
	if s := got.ContainersStatuses; len(s) != 2 || s[0].Id != "a" || s[1].Id != "c" {
		t.Errorf("containers: %v", s)
	}
	e.Pod = nil // a container whose pod is gone
	if got := (&Server{}).event(e); got.ContainerId != "a" || got.PodSandboxStatus != nil {
		t.Errorf("without a pod: %v", got)
	}
}
