package oci

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/program"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.opentelemetry.io/otel"
)

// A maker prepares one container.
type maker struct {
	*Runtime
	bundle Bundle
	spec   *specs.Spec
	out    *prepared
	group  *cgroup.Cgroup

	input  program.ContainerInput
	mounts []specs.Mount // the spec's, with destinations free of symbolic links
}

// make takes all steps. The group, on v1 a directory in each hierarchy, costs as
// much as all the mounts together, and neither needs the other: they are made at
// the same time.
func (m *maker) make(ctx context.Context) error {
	m.input = program.ContainerInput{ID: m.bundle.ID, Arch: runtime.GOARCH, FileMounts: map[int]bool{}}
	grouped := beside(func() error { return m.step(ctx, "make cgroup", m.makeCgroup) })
	defer grouped() // nothing goes on when this returns, or panics
	err := m.steps(ctx, []makeStep{
		{"open namespaces", m.openNamespaces}, {"make mounts", m.makeMounts}, {"make mount points", m.makePoints},
		{"make masks", m.makeMasks}, {"make streams", m.makeStreams},
	})
	if err := errors.Join(err, grouped()); err != nil {
		return err
	}
	return m.steps(ctx, []makeStep{{"open cgroup", m.openCgroup}, {"seal root", m.sealRoot}, {"compile", m.compile}})
}

// beside runs do on a goroutine of its own. wait waits for it, panics if it did,
// and may be called again.
func beside(do func() error) (wait func() error) {
	var err error
	var panicked string
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		err = do()
	}()
	return func() error {
		<-done
		if p := panicked; p != "" {
			panicked = "" // once is enough
			panic(p)
		}
		return err
	}
}

type makeStep struct {
	name string
	do   func(context.Context) error
}

func (m *maker) steps(ctx context.Context, steps []makeStep) error {
	for _, s := range steps {
		if err := m.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) step(ctx context.Context, name string, do func(context.Context) error) error {
	if err := m.fault("prepare: " + name); err != nil {
		return err
	}
	began := time.Now()
	within, span := otel.Tracer(tracer).Start(ctx, name)
	err := do(within)
	span.End()
	if err == nil {
		m.took(m.bundle.ID, name, time.Since(began))
	}
	return err
}
