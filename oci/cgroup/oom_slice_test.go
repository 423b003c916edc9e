package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"testing"
)

// TestScopesOfALongLivedSlice: a container that is started again and again has another
// scope each time. Nothing is kept of one that was removed but its kills, which are
// not those of another that is gone.
func TestScopesOfALongLivedSlice(t *testing.T) {
	s := &System{Mode: V2, unified: t.TempDir(), controllers: []string{"memory"}}
	const slice = "/pod.slice"
	say := func(group string, kills int) {
		t.Helper()
		dir := s.unifiedDir(group)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path.Join(dir, "memory.events"), fmt.Appendf(nil, "oom 0\noom_kill %d\n", kills), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	scope := func(name string) *Cgroup {
		t.Helper()
		say(slice+"/"+name+".scope", 0)
		c, err := s.Open(slice + "/" + name + ".scope")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	remove := func(c *Cgroup) { // after systemd did
		t.Helper()
		if err := errors.Join(os.RemoveAll(s.unifiedDir(c.Path)), c.Remove(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	const before, times = 5, 3
	say(slice, before)
	stays := scope("stays")
	for n := range times {
		c := scope(fmt.Sprint(n))
		say(slice, before+n+1)
		s.KillsCounted(c.Path, 1)
		remove(c)
	}
	if known := s.kills.slices[slice].known; len(known) != 1 {
		t.Errorf("known are %v, wanted the one that is there", known)
	}
	last := scope("last")
	say(slice, before+times+1)
	if n := s.killsOfGone(last); n != 1 {
		t.Errorf("the last one has %d kills", n)
	}
	remove(last)
	remove(stays)
	if len(s.kills.slices) > 0 {
		t.Errorf("without scopes there are still %v", s.kills.slices)
	}
}
