package cgroup

import (
	"path"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// The cost of a container's groups: made with its limits, joined by nobody,
// removed.
func BenchmarkCreateRemove(b *testing.B) {
	s := system(b)
	keep := create(b, nil)
	for b.Loop() {
		c, err := s.Create(b.Context(), path.Join(keep.Path, "a"), limited())
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// The same without limits: what directories cost.
func BenchmarkCreateRemoveNoLimits(b *testing.B) {
	s := system(b)
	keep := create(b, nil)
	for b.Loop() {
		c, err := s.Create(b.Context(), path.Join(keep.Path, "a"), nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// The same by the library alone.
func BenchmarkCreateRemoveLibrary(b *testing.B) {
	s := system(b)
	keep := create(b, nil)
	for b.Loop() {
		limits, err := s.convert(limited())
		if err != nil {
			b.Fatal(err)
		}
		m, err := manager.New(&cgroups.Cgroup{Path: path.Join(keep.Path, "a"), Resources: limits})
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Apply(-1); err != nil {
			b.Fatal(err)
		}
		if err := m.Set(limits); err != nil {
			b.Fatal(err)
		}
		if err := m.Destroy(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	c := create(b, limited())
	for b.Loop() {
		if _, err := c.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatsLibrary(b *testing.B) {
	c := create(b, limited())
	m, err := manager.New(&cgroups.Cgroup{Path: c.Path, Resources: &cgroups.Resources{}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := m.GetStats(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTasksFDs(b *testing.B) {
	c := create(b, nil)
	for b.Loop() {
		files, err := c.TasksFDs()
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range files {
			f.Close()
		}
	}
}
