package harness

import (
	"slices"
	"testing"
)

// TestLeakCheckSeesAPod: everything that a running pod consists of would be found
// if it were left.
func TestLeakCheckSeesAPod(t *testing.T) {
	i := New(t)
	c := i.RunPod().Run("c", i.Image("probe"), []string{"/bin/workload", "on-term", "0"})
	c.WaitOutput("ready") // it has arguments only when execve(2) is over, which is after its start
	found := map[string][]string{}
	for _, l := range append(i.leftovers(), i.leftInCustody()...) {
		found[l.Kind] = append(found[l.Kind], l.Name)
	}
	for _, kind := range []string{"process", "mount", "netns", "cgroup", "file", "network", "descriptor"} {
		if len(found[kind]) == 0 {
			t.Errorf("no %s of the running pod was found", kind)
		}
	}
	if !slices.Contains(found["process"], "/bin/workload on-term 0") {
		t.Errorf("the container's process is not among %q", found["process"])
	}
	t.Log(found["descriptor"])
}
