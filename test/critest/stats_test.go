package critest_test

import (
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A listener reads a stream of events all the time: there are runtimes where one
// that does not read holds up all others.
type listener struct {
	mu     sync.Mutex
	events []*runtimeapi.ContainerEventResponse
}

func (n *node) listener() *listener {
	n.Helper()
	stream, err := n.runtime.GetContainerEvents(n.ctx(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		n.Fatal(err)
	}
	l := &listener{}
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.events = append(l.events, e)
			l.mu.Unlock()
		}
	}()
	return l
}

// of gives the events of a container so far.
func (l *listener) of(id string) (events []*runtimeapi.ContainerEventResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.ContainerId == id {
			events = append(events, e)
		}
	}
	return events
}

// TestEventsOfAContainer: each step of a life comes once, in order. Another
// subscriber does not take anything away.
func TestEventsOfAContainer(t *testing.T) {
	clause(t, "GetContainerEvents gets container events from the CRI runtime")
	n := newNode(t)
	p := n.pod()
	listeners := []*listener{n.listener(), n.listener()}
	remove := func(c *container) {
		if _, err := n.runtime.RemoveContainer(n.ctx(), &runtimeapi.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the streams to begin, which only an event shows", func() bool {
		c, err := p.create()
		if err != nil {
			t.Fatal(err)
		}
		remove(c)
		return len(listeners[0].of(c.id)) > 0 && len(listeners[1].of(c.id)) > 0
	})
	c := p.run(command("/bin/sh", "-c", "exit 5"))
	c.ended()
	remove(c)
	wanted := []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	for _, l := range listeners {
		eventually(t, "four events", func() bool { return len(l.of(c.id)) >= len(wanted) })
		for i, e := range l.of(c.id) {
			equal(t, "event", e.ContainerEventType, wanted[min(i, len(wanted)-1)])
			equal(t, "pod of the event", e.GetPodSandboxStatus().GetId(), p.id)
			if e.CreatedAt == 0 {
				t.Error("it has no time")
			}
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT && len(e.ContainersStatuses) == 1 {
				equal(t, "exit code in the event", e.ContainersStatuses[0].ExitCode, 5)
			}
		}
		equal(t, "events", len(l.of(c.id)), len(wanted))
	}
}

// TestStatsValues: the numbers are the container's, not only there.
func TestStatsValues(t *testing.T) {
	clause(t, "ContainerStats returns stats of the container. If the container does not")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("dd if=/dev/zero of=/dev/shm/held bs=1M count=24 2>/dev/null; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000000"))
	stats := func() *runtimeapi.ContainerStats {
		r, err := n.runtime.ContainerStats(n.ctx(), &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		return r.Stats
	}
	eventually(t, "24 MiB in use", func() bool { return stats().GetMemory().GetUsageBytes().GetValue() > 24<<20 })
	eventually(t, "50 ms of a processor", func() bool { return stats().GetCpu().GetUsageCoreNanoSeconds().GetValue() > 50e6 })
	s := stats()
	equal(t, "id", s.Attributes.Id, c.id)
	equal(t, "name", s.Attributes.Metadata.Name, c.config.Metadata.Name)
	if got := s.Memory.UsageBytes.Value; got > 64<<20 {
		t.Errorf("a container with 24 MiB uses %d", got)
	}
	if s.Cpu.Timestamp == 0 || s.Memory.Timestamp == 0 || s.Memory.WorkingSetBytes.GetValue() == 0 {
		t.Errorf("a value is missing: %v", s)
	}
	pod, err := n.runtime.PodSandboxStats(n.ctx(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	linux := pod.GetStats().GetLinux()
	equal(t, "interface", linux.GetNetwork().GetDefaultInterface().GetName(), "eth0")
	if linux.GetMemory().GetUsageBytes().GetValue() < 24<<20 || linux.GetProcess().GetProcessCount().GetValue() == 0 {
		t.Errorf("the pod's numbers are %v", linux)
	}
}
