package guards

import (
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestLinkIsMadeAhead: a pod's link was there before the pod was asked for, and
// another is there for the next.
func TestLinkIsMadeAhead(t *testing.T) {
	i := harness.New(t)
	var pods []string
	for range 6 { // more than are made at a time
		var before []string
		i.Wait("links are ready", func() bool {
			before = slices.DeleteFunc(i.Links(), func(name string) bool { // those that the kernel has not removed yet
				return slices.ContainsFunc(pods, func(id string) bool { return strings.HasSuffix(name, id[:8]) })
			})
			return len(before) >= 3
		})
		p := i.RunPod()
		pods = append(pods, p.ID)
		if !slices.ContainsFunc(before, func(name string) bool { return strings.HasSuffix(name, p.ID[:8]) }) {
			t.Errorf("pod %.8s has none of %v", p.ID, before)
		}
		p.Remove()
	}
}
