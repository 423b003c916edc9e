package faults_test

import (
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

// hungBound is when a keeper that hangs must have been replaced.
var hungBound = harness.Long(15 * time.Second)

// TestHungKeeper: a keeper that does not answer is replaced by one that does, and
// nobody's containers notice.
func TestHungKeeper(t *testing.T) {
	l := newLife(t)
	c := l.RunPod().Run("counter", l.image, []string{"/bin/workload", "count", "5"})
	c.WaitOutput("3\n")
	keeper := l.Keeper()
	l.Halt(keeper)
	began := time.Now()
	l.RunPod().Run("other", l.image, []string{"/bin/workload", "sleep-forever"})
	t.Logf("a pod while the keeper hangs: %v", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > hungBound || l.Keeper() == keeper {
		t.Errorf("a pod took %v, and the keeper is %d, was %d", took, l.Keeper(), keeper)
	}
	c.Stop(30)
	whole(t, c.Output("stdout"))
}

// TestStartWithHungKeeper: serve comes up although the keeper that it finds does
// not answer, and takes the containers over.
func TestStartWithHungKeeper(t *testing.T) {
	l := newLife(t)
	c := l.RunPod().Run("counter", l.image, []string{"/bin/workload", "count", "5"})
	c.WaitOutput("3\n")
	pid := c.PID()
	l.Halt(l.Keeper())
	l.Kill()
	began := time.Now()
	l.Start()
	t.Logf("ready although the keeper hangs: %v", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > hungBound {
		t.Errorf("serve took %v", took)
	}
	if got := c.PID(); got != pid {
		t.Errorf("the counter is process %d, it was %d", got, pid)
	}
	c.Stop(30)
	whole(t, c.Output("stdout"))
}
