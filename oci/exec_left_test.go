package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestManyLeftGroups: a command looks at few of those that were left, however many
// there are, and later ones at all in turn.
func TestManyLeftGroups(t *testing.T) {
	const many = 100
	system, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	group, err := system.Create(t.Context(), fmt.Sprintf("/cri-box-test-left-%d", os.Getpid()), &specs.LinuxResources{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	dir := group.UnifiedDir()
	if dir == nil {
		return // on v1 alone a command has no group
	}
	there := func() int {
		list, err := filepath.Glob(filepath.Join(dir.Name(), "exec-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	var left leftGroups
	for n := range many { // what is below keeps each as a process would
		name := fmt.Sprintf("exec-%d", n)
		if err := os.MkdirAll(filepath.Join(dir.Name(), name, "busy"), 0o755); err != nil {
			t.Fatal(err)
		}
		left.add("c", name)
	}
	for half, from := range []int{many / 2, 0} { // the later half first: those before are still busy
		for n := from; n < from+many/2; n++ {
			if err := os.Remove(filepath.Join(dir.Name(), fmt.Sprintf("exec-%d", n), "busy")); err != nil {
				t.Fatal(err)
			}
		}
		for range many/sweepAtOnce + 1 {
			before := there()
			left.sweep("c", dir)
			if n := before - there(); n > sweepAtOnce {
				t.Errorf("one command removed %d", n)
			}
		}
		if n, want := there(), many/2*(1-half); n != want {
			t.Errorf("there are %d, wanted %d", n, want)
		}
	}
	if len(left.names) > 0 {
		t.Errorf("in the end known are %v", left.names)
	}
}
