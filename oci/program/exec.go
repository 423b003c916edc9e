package program

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An ExecInput is a process to start in a running container.
//
// The program needs these descriptors, by name: container, a pidfd of the
// container's first process; stdin, stdout, stderr, or tty; those that CgroupV2
// and TasksFDs name.
type ExecInput struct {
	// ID is the container's, for errors.
	ID string
	// Arch is amd64 or arm64.
	Arch string
	// Spec is the container's own, for its namespaces and personality.
	Spec *specs.Spec
	// Process is what to start.
	Process *specs.Process
	// Filter is the compiled linux.seccomp of the container.
	Filter Filter
	// CgroupV2, TasksFDs and LastCap are as in ContainerInput.
	CgroupV2 string
	TasksFDs []string
	LastCap  int
}

// Exec compiles the start of a process in a running container. In a pid
// namespace of the container's it is an inner clone that executes: see Container.
func Exec(in ExecInput) (*Program, error) {
	l, err := newList("process in container "+in.ID, in.Arch, execRoom)
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", l.Name, err)
	}
	flags, names, inner := in.namespaces()
	s := &starter{list: l, process: in.Process, linux: in.Spec.Linux, filter: in.Filter, lastCap: in.LastCap, inner: inner}
	if hasNamespace(in.Spec, specs.UserNamespace) {
		s.users = "container"
	}
	l.Cgroup = in.CgroupV2
	l.Fork = inner

	s.outside(in.TasksFDs)
	l.call("enter the container", "setns", l.FD("container"), Flag(flags, names))
	s.session()
	s.inside()
	s.rights()
	s.execute()
	return l.done()
}

func (in *ExecInput) check() error {
	switch {
	case in.Spec == nil || in.Spec.Linux == nil:
		return errors.New("the container's spec has no linux section")
	case in.Process == nil:
		return errors.New("there is no process")
	case in.Spec.Linux.Seccomp != nil && in.Filter.IsZero():
		return errors.New("the container has a seccomp profile, but no compiled filter was given")
	}
	return checkProcess(in.Process)
}

// namespaces gives those of the container that are not the host's. The pid
// namespace is entered by children only, setns(2).
func (in *ExecInput) namespaces() (flags uint64, names string, pid bool) {
	flags, names = unix.CLONE_NEWNS, "CLONE_NEWNS"
	add := func(flag uint64, name string) { flags, names = flags|flag, names+"|"+name }
	for _, ns := range sharedNamespaces {
		if hasNamespace(in.Spec, ns.kind) {
			add(ns.flag, ns.name)
			pid = pid || ns.kind == specs.PIDNamespace
		}
	}
	if hasNamespace(in.Spec, specs.CgroupNamespace) {
		add(unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP")
	}
	return flags, names, pid
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == kind {
			return true
		}
	}
	return false
}
