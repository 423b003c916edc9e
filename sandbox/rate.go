package sandbox

import (
	"sync"
	"time"
)

// rateWindow is the shortest time over which a processor rate is taken.
const rateWindow = time.Second

// rates turns processor time into use per second: from the previous sample, of
// which there is at most one a second, to now. It holds one sample for each pod
// and container that was asked for.
type rates struct {
	mu   sync.Mutex
	last map[string]rateSample
}

type rateSample struct {
	at        time.Time
	used      uint64 // nanoseconds of processor time until at
	nanoCores uint64 // in the window that ended at at
}

// nanoCores is the rate until now. Without an earlier sample it counts from
// since, when nothing was used yet.
func (r *rates) nanoCores(id string, since, now time.Time, used uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.last[id]
	if !ok {
		last = rateSample{at: since}
	}
	window := now.Sub(last.at)
	if ok && window < rateWindow || window <= 0 {
		return last.nanoCores
	}
	s := rateSample{at: now, used: used}
	if used > last.used {
		s.nanoCores = uint64(float64(used-last.used) / window.Seconds())
	}
	if r.last == nil {
		r.last = map[string]rateSample{}
	}
	r.last[id] = s
	return s.nanoCores
}

func (r *rates) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, id)
}
