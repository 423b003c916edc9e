package sandbox

import (
	"cmp"
	"iter"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Snapshot is all pods and containers at one moment. Nothing in it is ever
// changed: what changes makes a new one, so that a list takes no lock and copies
// nothing.
type Snapshot struct {
	Pods       []*Pod
	Containers []*Container
}

// List returns the current snapshot. It does not wait for anything.
func (m *Manager) List() *Snapshot { return m.snapshot.Load() }

// In gives the containers of a pod.
func (s *Snapshot) In(podID string) iter.Seq[*Container] {
	return func(yield func(*Container) bool) {
		for _, c := range s.Containers {
			if c.PodID == podID && !yield(c) {
				return
			}
		}
	}
}

// visible tells whether a list shows the pod: one on its way up is not there yet.
func (p *Pod) visible() bool { return p != nil && (!p.ReadyAt.IsZero() || p.Problem != "") }

func (c *Container) visible() bool { return c != nil && c.Made }

// savePod writes the record and publishes it.
func (m *Manager) savePod(e *podEntry, p *Pod) error {
	if err := podKind.Save(m.podDir(p.ID), p); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := e.pod
	e.pod = p
	m.publishPod(old, p)
	return nil
}

func (m *Manager) saveContainer(e *containerEntry, c *Container) error {
	if err := containerKind.Save(m.containerDir(c.ID), c); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := e.ctr
	e.ctr, e.unsaved = c, false
	m.publishContainer(old, c)
	return nil
}

// keepUnsaved publishes what could not be written: the facts are what they are. It
// returns false if the container was removed meanwhile: then there is nothing to
// write any more.
func (m *Manager) keepUnsaved(e *containerEntry, c *Container) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.ID] != e {
		return false
	}
	old := e.ctr
	e.ctr, e.unsaved = c, true
	m.publishContainer(old, c)
	return true
}

func (m *Manager) isUnsaved(e *containerEntry) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.unsaved
}

// publishPod puts a pod into the snapshot in place of an earlier state of it, and
// tells those who listen what happened. Both may be nil. m.mu is held.
func (m *Manager) publishPod(old, now *Pod) {
	if !old.visible() && !now.visible() {
		return
	}
	s := *m.snapshot.Load()
	s.Pods = replaced(s.Pods, old, now, now.visible())
	m.snapshot.Store(&s)
	for _, kind := range podEvents(old, now) {
		e := Event{Kind: kind, At: time.Now(), Pod: cmp.Or(now, old), Snapshot: &s}
		e.ID = e.Pod.ID
		m.events.tell(e)
	}
}

func (m *Manager) publishContainer(old, now *Container) {
	if !old.visible() && !now.visible() {
		return
	}
	s := *m.snapshot.Load()
	s.Containers = replaced(s.Containers, old, now, now.visible())
	m.snapshot.Store(&s)
	for _, kind := range containerEvents(old, now) {
		c := cmp.Or(now, old)
		e := Event{Kind: kind, ID: c.ID, At: time.Now(), Snapshot: &s}
		if p := m.pods[c.PodID]; p != nil {
			e.Pod = p.pod
		}
		m.events.tell(e)
	}
}

// replaced is a new list with now in the place of old, or at the end.
func replaced[T any](list []*T, old, now *T, visible bool) []*T {
	out := slices.Clone(list)
	i := slices.Index(out, old)
	switch {
	case i >= 0 && visible:
		out[i] = now
	case i >= 0:
		out = slices.Delete(out, i, i+1)
	case visible:
		out = append(out, now)
	}
	return out
}

// podEvents says what a change of a pod is to those who listen.
func podEvents(old, now *Pod) []runtimeapi.ContainerEventType {
	switch {
	case now == nil:
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT}
	case !old.visible() && now.Ready():
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
			runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT}
	case old != nil && old.StoppedAt.IsZero() && !now.StoppedAt.IsZero():
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}
	}
	return nil
}

// containerEvents is the same for a container. One that could not be started has
// only stopped.
func containerEvents(old, now *Container) []runtimeapi.ContainerEventType {
	switch {
	case now == nil:
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT}
	case !old.visible():
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT}
	case old.End == nil && now.End != nil:
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}
	case old.StartedAt.IsZero() && !now.StartedAt.IsZero():
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT}
	}
	return nil
}
