package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// probes measures what probes cost: a number of ExecSync from eight clients in
// several pods, in processor seconds of all the runtime's processes.
func probes(ctx context.Context, b *bench) error {
	for range b.rounds {
		for _, e := range b.endpoints {
			if err := e.probeLoad(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	return nil
}

func (e *endpoint) probeLoad(ctx context.Context, b *bench) (err error) {
	pods, err := e.raiseMany(ctx, b.settings, 8)
	defer func() { err = e.lower(ctx, pods, err) }()
	if err != nil {
		return err
	}
	n := b.probes / len(pods)
	before, began := e.cpu(), time.Now()
	errs := make(chan error, len(pods))
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			for range n {
				if err := e.exec(ctx, p); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	total := float64(n * len(pods))
	e.add("ExecSync a second, 8 clients", total/time.Since(began).Seconds())
	e.add("CPU ms per ExecSync", (e.cpu()-before)*1000/total)
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// throughputs takes pods up and down by 1, 8, 32 clients.
func throughputs(ctx context.Context, b *bench) error {
	for range b.rounds {
		for _, clients := range b.clients {
			for _, e := range b.endpoints {
				n := max(b.pods/2, 2*clients)
				s := b.settings
				s.execs = 0
				before, began := e.cpu(), time.Now()
				ups, err := e.batch(ctx, s, n, clients)
				if err != nil {
					return fmt.Errorf("%s: %w", e.name, err)
				}
				e.add(fmt.Sprintf("pods up a second, %d clients", clients), float64(n)/ups.Seconds())
				e.add(fmt.Sprintf("pod cycles a second, %d clients", clients), float64(n)/time.Since(began).Seconds())
				e.add("CPU ms per pod cycle", (e.cpu()-before)*1000/float64(n))
			}
		}
	}
	return nil
}
