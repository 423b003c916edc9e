package harness

import (
	"slices"
	"testing"
)

// TestLeakCheckSeesAPod: everything that a running pod consists of would be found
// if it were left.
func TestLeakCheckSeesAPod(t *testing.T) {
	i := New(t)
	i.RunPod().Run("c", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	found := map[string][]string{}
	for _, l := range append(i.leftovers(), i.leftInCustody()...) {
		found[l.Kind] = append(found[l.Kind], l.Name)
	}
	for _, kind := range []string{"process", "mount", "netns", "cgroup", "file", "network", "descriptor"} {
		if len(found[kind]) == 0 {
			t.Errorf("no %s of the running pod was found", kind)
		}
	}
	if !slices.Contains(found["process"], "/bin/workload sleep-forever") {
		t.Errorf("the container's process is not among %q", found["process"])
	}
	t.Log(found["descriptor"])
}
