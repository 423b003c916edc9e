package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-box/cri-box/oci/program"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// inputFile is what a container's program was compiled from, beside the spec: a
// program is a pure function, so it can be shown later without being kept.
const inputFile = "program.json"

func (m *maker) saveInput() error {
	in := m.input
	in.Spec = &specs.Spec{Mounts: m.mounts}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("cannot save program's input: %w", err)
	}
	if err := os.WriteFile(filepath.Join(m.containerState(m.bundle.ID), inputFile), b, 0o600); err != nil {
		return fmt.Errorf("cannot save program's input: %w", err)
	}
	return nil
}

// Calls returns the system calls that start a container, one on a line. s is its
// spec, unchanged.
func (r *Runtime) Calls(id string, s *specs.Spec) (string, error) {
	b, err := os.ReadFile(filepath.Join(r.containerState(id), inputFile))
	if err != nil {
		return "", fmt.Errorf("cannot show how container %s was made: %w", id, err)
	}
	var in program.ContainerInput
	if err := json.Unmarshal(b, &in); err != nil {
		return "", fmt.Errorf("cannot show how container %s was made: %w", id, err)
	}
	whole := *s
	whole.Mounts = in.Spec.Mounts
	in.Spec = &whole
	if in.Filter, err = r.filters.compile(s.Linux.Seccomp); err != nil {
		return "", err
	}
	p, err := program.Container(in)
	if err != nil {
		return "", err
	}
	return p.Text(), nil
}
