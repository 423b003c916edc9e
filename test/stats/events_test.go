package stats_test

import (
	"errors"
	"io"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

// TestEvents: the life of a pod with a container, as it is told, each event with
// the state right after it.
func TestEvents(t *testing.T) {
	i := harness.New(t)
	image := i.Image(probe)
	// On a connection of its own, which Stop does not close.
	stream, err := runtimeapi.NewRuntimeServiceClient(i.Dial()).GetContainerEvents(i.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	pod := i.RunPod()
	c := pod.Run("c", image, run("on-term", "3"))
	c.WaitOutput("ready")
	c.Stop(30)
	c.Remove()
	pod.Stop()
	pod.Remove()

	ready, notReady := runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	for n, want := range []struct {
		id    string
		kind  runtimeapi.ContainerEventType
		pod   runtimeapi.PodSandboxState
		state []runtimeapi.ContainerState
	}{
		{pod.ID, created, ready, nil},
		{pod.ID, started, ready, nil},
		{c.ID, created, ready, []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_CREATED}},
		{c.ID, started, ready, []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_RUNNING}},
		{c.ID, stopped, ready, []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_EXITED}},
		{c.ID, deleted, ready, nil},
		{pod.ID, stopped, notReady, nil},
		{pod.ID, deleted, notReady, nil},
	} {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId != want.id || e.ContainerEventType != want.kind {
			t.Errorf("event %d is %v of %s, wanted %v of %s", n, e.ContainerEventType, e.ContainerId, want.kind, want.id)
		}
		if e.PodSandboxStatus.GetId() != pod.ID || e.PodSandboxStatus.GetState() != want.pod {
			t.Errorf("event %d has pod %s %v, wanted %s %v", n, e.PodSandboxStatus.GetId(), e.PodSandboxStatus.GetState(), pod.ID, want.pod)
		}
		if len(e.ContainersStatuses) != len(want.state) || len(want.state) > 0 && e.ContainersStatuses[0].State != want.state[0] {
			t.Errorf("event %d has containers %v, wanted %v", n, e.ContainersStatuses, want.state)
		}
		if n == 4 && e.ContainersStatuses[0].ExitCode != 3 {
			t.Errorf("the exit code told is %d, wanted 3", e.ContainersStatuses[0].ExitCode)
		}
	}
	// A daemon that ends does not wait for its listeners, and says that it ends.
	if state := i.Stop(); !state.Success() {
		t.Errorf("serve ended with %v", state)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream was cut off instead of ended: %v", err)
	}
	i.Start()
}
