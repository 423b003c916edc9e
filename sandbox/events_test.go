package sandbox

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func eventManager() *Manager {
	m := &Manager{pods: map[string]*podEntry{}, containers: map[string]*containerEntry{}}
	m.events.init()
	m.snapshot.Store(&Snapshot{})
	return m
}

// TestSlowReaderLosesItsOldest: a reader that does not read loses its own oldest
// events, in order, and a counter says how many; one that reads loses none.
func TestSlowReaderLosesItsOldest(t *testing.T) {
	m := eventManager()
	slow, quick := m.Subscribe(), m.Subscribe()
	defer slow.Close()
	defer quick.Close()
	const told = maxEvents + 300
	for i := range told {
		m.events.tell(Event{ID: fmt.Sprint(i)})
		if e, err := quick.Next(t.Context()); err != nil || e.ID != fmt.Sprint(i) {
			t.Fatalf("the quick reader got %q, %v, wanted %d", e.ID, err, i)
		}
	}
	if got := m.EventsLost(); got != told-maxEvents {
		t.Errorf("lost %d, wanted %d", got, told-maxEvents)
	}
	for i := told - maxEvents; i < told; i++ {
		e, err := slow.Next(t.Context())
		if err != nil || e.ID != fmt.Sprint(i) {
			t.Fatalf("the slow reader got %q, %v, wanted %d", e.ID, err, i)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e, err := slow.Next(ctx); err == nil {
		t.Errorf("the slow reader got %q once more", e.ID)
	}
}

func TestEndEvents(t *testing.T) {
	m := eventManager()
	s := m.Subscribe()
	defer s.Close()
	m.EndEvents()
	m.EndEvents()
	if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, wanted ErrClosed", err)
	}
}

// TestPublish: a snapshot that was taken never changes, and each change is told
// once, with the state right after it.
func TestPublish(t *testing.T) {
	m := eventManager()
	s := m.Subscribe()
	defer s.Close()
	now := time.Now()
	pod := &Pod{ID: "p", ReadyAt: now}
	m.pods["p"] = &podEntry{pod: pod}
	m.publishPod(&Pod{ID: "p"}, pod)
	making := &Container{ID: "c", PodID: "p"}
	created := &Container{ID: "c", PodID: "p", Made: true}
	started := &Container{ID: "c", PodID: "p", Made: true, StartedAt: now}
	ended := &Container{ID: "c", PodID: "p", Made: true, StartedAt: now, End: &End{At: now}}
	m.publishContainer(nil, making)
	before := m.List()
	m.publishContainer(making, created)
	kept := m.List()
	m.publishContainer(created, started)
	m.publishContainer(started, ended)
	m.publishContainer(ended, nil)
	stopped := &Pod{ID: "p", ReadyAt: now, StoppedAt: now}
	m.publishPod(pod, stopped)
	m.publishPod(stopped, nil)

	if len(before.Containers) != 0 || len(kept.Containers) != 1 || kept.Containers[0] != created {
		t.Errorf("a snapshot changed: %v, %v", before.Containers, kept.Containers)
	}
	if now := m.List(); len(now.Pods)+len(now.Containers) != 0 {
		t.Errorf("left over: %v %v", now.Pods, now.Containers)
	}
	for i, want := range []struct {
		id   string
		kind runtimeapi.ContainerEventType
		ctr  *Container
	}{
		{"p", runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, nil},
		{"p", runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, nil},
		{"c", runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, created},
		{"c", runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, started},
		{"c", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, ended},
		{"c", runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, nil},
		{"p", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, nil},
		{"p", runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, nil},
	} {
		e, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != want.id || e.Kind != want.kind || e.Pod == nil {
			t.Errorf("event %d is %s %v of pod %v, wanted %s %v", i, e.ID, e.Kind, e.Pod, want.id, want.kind)
		}
		var got *Container
		for c := range e.Snapshot.In("p") {
			got = c
		}
		if got != want.ctr {
			t.Errorf("event %d shows container %v, wanted %v", i, got, want.ctr)
		}
	}
}

// TestListWaitsForNothing: whoever changes something holds nobody up who lists,
// and a list is the snapshot itself, whatever its length.
func TestListWaitsForNothing(t *testing.T) {
	m := eventManager()
	for range 1000 {
		m.publishContainer(nil, &Container{Made: true})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	listed := make(chan *Snapshot)
	go func() { listed <- m.List() }()
	select {
	case s := <-listed:
		if len(s.Containers) != 1000 || s != m.List() {
			t.Errorf("it has %d containers; another list is another snapshot: %v", len(s.Containers), s != m.List())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a list waits for who changes something")
	}
	if n := testing.AllocsPerRun(10, func() { m.List() }); n != 0 {
		t.Errorf("a list allocates %v times", n)
	}
}

// BenchmarkList: a list costs the same with many containers as with none.
func BenchmarkList(b *testing.B) {
	m := eventManager()
	for range 1000 {
		m.publishContainer(nil, &Container{Made: true})
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(m.List().Containers) != 1000 {
			b.Fatal("not all are there")
		}
	}
}
