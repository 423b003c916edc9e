package main

import (
	"context"
	"runtime"
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
	// heapRoom is how much the heap may grow between two collections. Garbage is
	// short-lived, and collecting a small heap seldom saves a tenth of a pod's CPU
	// time; that of a node full of pods must not be several times what lives in it.
	heapRoom = 8 << 20
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

// boundHeap has the heap grow by heapRoom between collections, however much lives,
// but at least by half of that and at most by three times.
func boundHeap() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	last := 0
	afterEachCollection(func() {
		metrics.Read(sample)
		percent := 300
		if live := sample[0].Value; live.Kind() == metrics.KindUint64 && live.Uint64() > 0 {
			percent = min(max(int(heapRoom*100/live.Uint64()), 50), 300)
		}
		if percent < last*9/10 || percent > last*11/10 { // the call stops the world
			debug.SetGCPercent(percent)
			last = percent
		}
	})
}

// afterEachCollection calls do now and after each collection, which is when the
// cleanup of something that nobody holds is called.
func afterEachCollection(do func()) {
	do()
	runtime.AddCleanup(&struct{ self *int }{}, afterEachCollection, do)
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
