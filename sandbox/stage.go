package sandbox

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-box/cri-box/oci/waits"
)

// A Stage is where a pod or container is in a list of steps.
type Stage struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Waits is what the step waits for, where that has a name and may take long.
	Waits *waits.Wait `json:"waits,omitempty"`
}

// A Timing is a step that was done.
type Timing struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"` // in nanoseconds
}

// maxTimings is how many steps of a pod or container are remembered.
const maxTimings = 64

// stages are the step at which something is, and those that it was at.
type stages struct {
	atomic.Pointer[Stage]
	waits waits.Place

	mu   sync.Mutex
	past []Timing
}

// now is the stage with what it waits for, nil at none.
func (s *stages) now() *Stage {
	at := s.Load()
	if at == nil {
		return nil
	}
	return &Stage{at.Name, at.Since, s.waits.Now()}
}

// took remembers a step that was done.
func (s *stages) took(name string, d time.Duration) {
	slog.Debug("stage", "name", name, "took", d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.past) < maxTimings {
		s.past = append(s.past, Timing{name, d})
	}
}

func (s *stages) timings() []Timing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.past)
}

// atStage publishes each stage as it begins, and notes how long it took.
func atStage(s *stages) func(string) {
	return func(name string) {
		now := time.Now()
		if last := s.Load(); last != nil {
			s.took(last.Name, now.Sub(last.Since))
		}
		if name == "" {
			s.Store(nil)
			return
		}
		s.Store(&Stage{Name: name, Since: now})
	}
}

// PodStage says at which step a pod is on its way up or down, nil at none.
func (m *Manager) PodStage(id string) *Stage {
	e, err := m.podEntry(id)
	if err != nil {
		return nil
	}
	return e.stage.now()
}

// Timings are the steps that a pod or container of this daemon went through, in
// their order; after a restart of the daemon there are none.
func (m *Manager) Timings(id string) []Timing {
	if e, err := m.podEntry(id); err == nil {
		return e.stage.timings()
	}
	if e, err := m.containerEntry(id); err == nil {
		return e.stage.timings()
	}
	return nil
}

// Took notes a part of a step, as the runtime below tells it.
func (m *Manager) Took(id, name string, d time.Duration) {
	if e, err := m.containerEntry(id); err == nil {
		e.stage.took(name, d)
	}
}
