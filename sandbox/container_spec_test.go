package sandbox

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A spec that nobody uses is on disk alone, and comes back when it is wanted.
func TestDropIdle(t *testing.T) {
	e := &containerEntry{ctr: &Container{ID: "c", Config: Message[*runtimeapi.ContainerConfig]{&runtimeapi.ContainerConfig{}}}}
	m := &Manager{cfg: Config{RootDir: t.TempDir()}, containers: map[string]*containerEntry{"c": e}}
	if err := os.MkdirAll(m.containerDir("c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.saveSpec("c", &specs.Spec{Hostname: "web", Process: &specs.Process{}, Linux: &specs.Linux{}}); err != nil {
		t.Fatal(err)
	}
	first, err := m.Spec("c")
	if err != nil || first.Hostname != "web" {
		t.Fatalf("got %+v, %v", first, err)
	}
	if n := m.DropIdle(); n != 0 {
		t.Errorf("%d that were just used are dropped", n)
	}
	if again, err := m.Spec("c"); again != first || err != nil {
		t.Errorf("what is used is read again: %v", err)
	}
	m.DropIdle()
	if n := m.DropIdle(); n != 1 || e.spec.Load() != nil {
		t.Errorf("%d that nobody used are dropped, want 1", n)
	}
	if n := m.DropIdle(); n != 0 {
		t.Errorf("%d are dropped twice", n)
	}
	if back, err := m.Spec("c"); err != nil || back.Hostname != "web" {
		t.Errorf("got %+v, %v", back, err)
	}
}

// An update while the spec is read: the newer one stays.
func TestSpecKeepsNewer(t *testing.T) {
	var c specCache
	old, now := &specs.Spec{Hostname: "old"}, &specs.Spec{Hostname: "now"}
	if got := c.keep(old); got != old || c.Load() != old {
		t.Errorf("what was read is not kept")
	}
	c.Store(now)
	if got := c.keep(old); got != now || c.Load() != now {
		t.Errorf("got %s, want the newer one", got.Hostname)
	}
}
