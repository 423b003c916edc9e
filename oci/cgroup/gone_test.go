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

// Who waits for a group's end finds it removed at any point.
func TestWaitForWhatIsGone(t *testing.T) { everywhere(t, testWaitForWhatIsGone) }

func testWaitForWhatIsGone(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	defer c.Close()
	if c.unified == nil {
		return // there is no event to wait for
	}
	if err := s.removeNow(c.Path); err != nil {
		t.Fatal(err)
	}
	if err := waitEvent(t.Context(), c.unified, "populated", 0); err != nil {
		t.Error(err)
	}
}
