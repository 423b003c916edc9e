package oci

import (
	"fmt"
	"testing"

	"github.com/cri-box/cri-box/oci/program"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestVolumesWithoutOpener: where no opener can be started there is an error, and no
// more.
func TestVolumesWithoutOpener(t *testing.T) {
	m := &maker{Runtime: &Runtime{Config: Config{StateDir: "/state", RootDir: "/root-dir"}}}
	for n := range program.MaxTrees + 1 { // one more than an opener takes
		m.mounts = append(m.mounts, specs.Mount{Type: "bind", Source: fmt.Sprintf("/nowhere/%d", n)})
	}
	volumes, err := m.openVolumes(t.Context())
	if err == nil {
		t.Errorf("%d volumes, no error", len(volumes))
	}
}
