package image

import "sync"

// Traffic is what pulls do and did since the store was opened. Sizes are bytes,
// compressed.
type Traffic struct {
	Running         int
	Received, Total int64 // of the layers of those that run
	OK, Failed      uint64
	Bytes           uint64 // that came from registries, layers only
}

// traffic counts it.
type traffic struct {
	mu   sync.Mutex
	jobs map[*job]struct{}
	past Traffic
}

// begin counts a pull; ended must be called with its result.
func (t *traffic) begin() (ended func(error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past.Running++
	return func(err error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.past.Running--
		if err == nil {
			t.past.OK++
		} else {
			t.past.Failed++
		}
	}
}

// fetching counts the bytes of a pull's layers until done.
func (t *traffic) fetching(j *job) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.jobs == nil {
		t.jobs = map[*job]struct{}{}
	}
	t.jobs[j] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.jobs, j)
	}
}

func (t *traffic) received(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past.Bytes += uint64(n)
}

// Traffic says how much is and was pulled.
func (s *Store) Traffic() Traffic {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	now := s.traffic.past
	for j := range s.traffic.jobs {
		p := j.progress()
		now.Received, now.Total = now.Received+p.Bytes, now.Total+p.Total
	}
	return now
}
