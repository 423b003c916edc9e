package sandbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxEvents is how many events wait for one reader. A reader that is slower
// loses its own oldest; nobody waits for it.
const maxEvents = 1024

// An Event is something that happened to a pod or container, and how all of them
// stood right after it. Nothing in it is ever changed.
type Event struct {
	Kind runtimeapi.ContainerEventType
	ID   string // of the container, or of the pod
	At   time.Time
	// Pod is the pod itself, or the container's; nil if it is gone.
	Pod      *Pod
	Snapshot *Snapshot
}

// events are the readers.
type events struct {
	lost    atomic.Uint64
	mu      sync.Mutex
	readers map[*Subscription]struct{}
	done    chan struct{} // closed when the daemon ends
}

// ErrClosed ends a subscription when the daemon does.
var ErrClosed = errors.New("the daemon ends")

func (x *events) init() {
	x.readers, x.done = map[*Subscription]struct{}{}, make(chan struct{})
}

// tell gives an event to all readers. It does not wait for them.
func (x *events) tell(e Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range x.readers {
		if s.put(e) {
			x.lost.Add(1)
		}
	}
}

// A Subscription is one reader's queue of events.
type Subscription struct {
	of   *events
	wake chan struct{}

	mu    sync.Mutex
	queue []Event // a ring of at most maxEvents
	first int     // index of the oldest
	count int
}

// Subscribe begins a queue of all events from now on. Its owner closes it.
func (m *Manager) Subscribe() *Subscription {
	s := &Subscription{of: &m.events, wake: make(chan struct{}, 1)}
	m.events.mu.Lock()
	defer m.events.mu.Unlock()
	m.events.readers[s] = struct{}{}
	return s
}

// EndEvents ends all subscriptions, present and future ones: a stream of events
// has no other end that a daemon could wait for.
func (m *Manager) EndEvents() {
	m.events.mu.Lock()
	defer m.events.mu.Unlock()
	select {
	case <-m.events.done:
	default:
		close(m.events.done)
	}
}

// EventsLost counts the events that slow readers did not get since the daemon
// started.
func (m *Manager) EventsLost() uint64 { return m.events.lost.Load() }

// Close ends the queue. Nobody may be in Next.
func (s *Subscription) Close() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	delete(s.of.readers, s)
}

// put adds an event and tells whether the oldest had to go for it.
func (s *Subscription) put(e Event) (lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.count == maxEvents:
		s.queue[s.first] = e
		s.first, lost = (s.first+1)%maxEvents, true
	case s.count == len(s.queue):
		s.grow()
		fallthrough
	default:
		s.queue[(s.first+s.count)%len(s.queue)] = e
		s.count++
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return lost
}

// grow doubles the ring: a reader that keeps up costs a few places.
func (s *Subscription) grow() {
	bigger := make([]Event, min(max(2*len(s.queue), 8), maxEvents))
	for i := range s.count {
		bigger[i] = s.queue[(s.first+i)%len(s.queue)]
	}
	s.queue, s.first = bigger, 0
}

// Next waits for the next event. The error is ctx's cause or
// ErrClosed.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.take(); ok {
			return e, nil
		}
		select {
		case <-s.wake:
		case <-s.of.done:
			return Event{}, ErrClosed
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return Event{}, false
	}
	e := s.queue[s.first]
	s.queue[s.first] = Event{} // let go of what it points to
	s.first, s.count = (s.first+1)%len(s.queue), s.count-1
	return e, true
}
