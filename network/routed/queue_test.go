package routed

import (
	"os"
	"testing"
)

// TestQueueLeavesTheFirstThread: Go does not end the process's first thread. A queue
// on it would keep its network namespace, and have /proc tell that as the process's.
func TestQueueLeavesTheFirstThread(t *testing.T) {
	l := newLab(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 500 { // any of them may get that thread
		l.in(l.node, func() error {
			q, err := newQueue()
			if err != nil {
				return err
			}
			defer q.stop()
			return q.do(t.Context(), func() error { return nil })
		})
	}
	if now, err := os.Readlink("/proc/self/ns/net"); now != before {
		t.Errorf("the process is in %s, began in %s, %v", now, before, err)
	}
}
