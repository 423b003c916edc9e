package cgroup

import "testing"

// Measurements hold a share of the daemon's descriptors and no more: pods need the rest.
func TestHeldDirectoriesAreBounded(t *testing.T) { everywhere(t, testHeldDirectories) }

func testHeldDirectories(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	before := s.held.Load()
	s.held.Add(heldMost())
	for range 3 {
		if _, err := c.Stats(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Detail(); err != nil {
			t.Fatal(err)
		}
	}
	if c.dirs.open != nil || s.held.Load() != before+heldMost() {
		t.Errorf("%d directories are held above the bound", count(c.dirs.open))
	}

	s.held.Add(-heldMost())
	if _, err := c.Stats(); err != nil {
		t.Fatal(err)
	}
	if held := s.held.Load() - before; held != count(c.dirs.open) || held == 0 && len(s.v1) > 0 {
		t.Errorf("%d are counted, %d held", held, count(c.dirs.open))
	}
	c.Close()
	c.Close()
	if held := s.held.Load() - before; held != 0 {
		t.Errorf("%d are counted after the end", held)
	}
}
