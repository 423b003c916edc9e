package netns

import (
	"slices"
	"testing"
	"time"
)

func TestPacer(t *testing.T) {
	var p Pacer
	var order []int
	begin := time.Now()
	for i := range 5 {
		p.End(func() { order = append(order, i) })
	}
	p.Wait()
	if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
		t.Errorf("order %v", order)
	}
	if took := time.Since(begin); took < 4*pace {
		t.Errorf("five ends took %v, want at least %v", took, 4*pace)
	}
	ran := make(chan struct{})
	p.End(func() { close(ran) }) // again after it was idle
	p.Wait()
	<-ran
}
