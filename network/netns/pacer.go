package netns

import (
	"sync"
	"time"
)

// pace is the time between two ends of namespaces. 500 at once hold the kernel's
// RTNL for half a second, in which no pod can be made; one each 2 ms costs
// creations some 10 ms at p99 and takes 300 down in 0.75 s.
const pace = 2 * time.Millisecond

// A Pacer ends namespaces one after the other: whoever drops the last reference
// to many of them does it through one. The zero Pacer is ready. Its goroutine
// lives only while there is something to end.
type Pacer struct {
	mu      sync.Mutex
	queue   []func()
	running bool
	done    sync.WaitGroup
}

// End queues what drops a last reference: closing a descriptor, unpinning. It
// returns at once; the first of a series runs at once too.
func (p *Pacer) End(drop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, drop)
	if !p.running {
		p.running = true
		p.done.Go(p.run)
	}
}

// Wait returns when all that was queued has run: pace for each.
func (p *Pacer) Wait() { p.done.Wait() }

func (p *Pacer) run() {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		drop := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		drop()
		<-tick.C
	}
}
