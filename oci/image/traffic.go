package image

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

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
	mu      sync.Mutex
	running map[*pulling]struct{}
	jobs    map[*job]struct{}
	past    Traffic
}

// A Doing is where a pull is that is under way, and since when.
type Doing struct {
	Image string    `json:"image"`
	Stage string    `json:"stage"`
	Since time.Time `json:"since"`
}

// The stages of a pull.
const (
	stageResolve = "ask registry"
	stageVerify  = "verify"
	stageRead    = "read manifest"
	stageLayers  = "get layers"
	stageSync    = "sync layers" // every layer that is missing waits for the disk
	stageRecord  = "write record"
)

// A pulling is a pull that is under way.
type pulling struct {
	doing atomic.Pointer[Doing]
	job   atomic.Pointer[job] // once there is one
}

func (p *pulling) at(stage string) {
	d := *p.doing.Load()
	d.Stage, d.Since = stage, time.Now()
	p.doing.Store(&d)
}

// now is where it is.
func (p *pulling) now() Doing {
	d := *p.doing.Load()
	if j := p.job.Load(); j != nil && d.Stage == stageLayers {
		if since := j.syncing(); !since.IsZero() {
			d.Stage, d.Since = stageSync, since
		}
	}
	return d
}

// Doing lists the pulls that are under way, the oldest stage first. It reads memory
// only.
func (s *Store) Doing() (list []Doing) {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	for p := range s.traffic.running {
		list = append(list, p.now())
	}
	slices.SortFunc(list, func(a, b Doing) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Image, b.Image)) })
	return list
}

// begin counts a pull; ended must be called with its result.
func (t *traffic) begin(name string) (p *pulling, ended func(error)) {
	p = new(pulling)
	p.doing.Store(&Doing{name, stageResolve, time.Now()})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running == nil {
		t.running = map[*pulling]struct{}{}
	}
	t.running[p] = struct{}{}
	t.past.Running++
	return p, func(err error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.running, p)
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
