package label

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// base is what a policy for containers has, as container-selinux writes it.
var base = Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}

// TestCategoriesDiffer: many pods at once, each with two categories of its own, in
// both labels.
func TestCategoriesDiffer(t *testing.T) {
	p := NewPool(base)
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				l, err := p.New(Options{})
				if err != nil {
					t.Error(err)
					return
				}
				level, ok := strings.CutPrefix(l.Process, "system_u:system_r:container_t:")
				mu.Lock()
				if !ok || seen[level] || l.Mount != "system_u:object_r:container_file_t:"+level {
					t.Errorf("labels %+v", l)
				}
				seen[level] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestLevelsSurvive: what an earlier daemon gave is held, so that no new pod gets
// it, and is free again when its last pod is gone.
func TestLevelsSurvive(t *testing.T) {
	first := NewPool(base)
	var given []Labels
	for range 100 {
		l, err := first.New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, l)
	}
	next := NewPool(base)
	for _, l := range given {
		next.Hold(l)
	}
	if len(next.taken) != 100 {
		t.Fatalf("%d levels are held, want 100", len(next.taken))
	}
	shared, err := next.New(Options{Level: levelOf(given[0].Process)})
	if err != nil || shared != given[0] {
		t.Fatalf("a level that is asked for: %+v, %v", shared, err)
	}
	next.Drop(given[0])
	if next.taken[levelOf(shared.Process)] != 1 {
		t.Error("a level is free though a pod has it")
	}
	next.Drop(shared)
	for _, l := range given[1:] {
		next.Drop(l)
	}
	if len(next.taken) != 0 {
		t.Errorf("still taken: %v", next.taken)
	}
}

// TestAllTaken: with no categories left there is an error, not a label twice.
func TestAllTaken(t *testing.T) {
	p := NewPool(base)
	for a := range categories {
		for b := a + 1; b < categories; b++ {
			p.taken[fmt.Sprintf("s0:c%d,c%d", a, b)] = 1
		}
	}
	if l, err := p.New(Options{}); err == nil {
		t.Errorf("it gave %+v", l)
	}
}

func TestWith(t *testing.T) {
	got, err := base.With(Options{User: "u", Role: "r", Type: "spc_t", Level: "s0:c7"})
	want := Labels{Process: "u:r:spc_t:s0:c7", Mount: "u:object_r:container_file_t:s0:c7"}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got, err := base.With(Options{}); err != nil || got != base {
		t.Errorf("%+v, %v", got, err)
	}
	inactive := NewPool(Labels{})
	if l, err := inactive.New(Options{Type: "t"}); err != nil || l != (Labels{}) || inactive.Active() {
		t.Errorf("without SELinux: %+v, %v", l, err)
	}
}

func TestCheck(t *testing.T) {
	for _, o := range []Options{{Type: "spc_t"}, {User: "system_u", Role: "system_r", Level: "s0-s0:c0.c1023"}, {}} {
		if err := o.Check(); err != nil {
			t.Error(err)
		}
	}
	for field, o := range map[string]Options{"user": {User: "a:b"}, "role": {Role: "a b"}, "type": {Type: "t\n"}, "level": {Level: "s0\x00"}} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
