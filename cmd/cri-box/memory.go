package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryEvery is how often the daemon looks whether it holds what it does not use.
	memoryEvery = 30 * time.Second
	// memorySlack is how much the heap may have grown since memory was given back
	// before that is worth a collection.
	memorySlack = 4 << 20
	// dropWorth is how many containers' specs are worth one, some 10 KiB each.
	dropWorth = 50
)

// giveBack lets go of what is only kept because it may be used again, and returns
// memory to the node's workloads: a burst of pods or a pull leaves the heap several
// times as large as what lives in it, and the garbage collector lets it stand, for
// the next burst.
func giveBack(ctx context.Context, dropIdle func() int) {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	after := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		dropped := dropIdle()
		if held := heldMemory(); held > after+memorySlack || dropped >= dropWorth {
			debug.FreeOSMemory()
			after = heldMemory()
		}
	}
}

// heldMemory is the heap as the kernel counts it: objects, the gaps between them,
// and what is free but not given back.
func heldMemory() (sum uint64) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return sum
}
