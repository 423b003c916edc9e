package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// The more lives in the heap, the smaller is the share by which it may grow.
func TestBoundHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	boundHeap()
	held := make([]*[1 << 20]byte, 64)
	for i := range held {
		held[i] = new([1 << 20]byte)
	}
	waitForPercent(t, 50)
	runtime.KeepAlive(held)
	held = nil
	waitForPercent(t, 300)
}

// waitForPercent collects until the collector is set so: the cleanup that sets it
// runs some time after a collection.
func waitForPercent(t *testing.T, want uint64) {
	t.Helper()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	for deadline := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		runtime.GC()
		metrics.Read(sample)
		got := sample[0].Value.Uint64()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the heap may grow by %d %%, want %d", got, want)
		}
	}
}
