package cgroup

import "testing"

// The kubelet removes what is below a pod's cgroup before it asks for the removal
// of containers.
func TestKillAndRemoveWhatIsGone(t *testing.T) { everywhere(t, testKillAndRemoveWhatIsGone) }

func testKillAndRemoveWhatIsGone(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	if err := s.removeNow(c.Path); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
