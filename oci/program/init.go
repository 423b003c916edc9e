package program

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An InitInput is the first process of a pod's PID namespace (oci/podinit).
//
// The program needs these descriptors, by name: exe, the executable; rootfs, a
// detached mount of an empty directory; stdin, stdout, stderr; those in
// Namespaces; those that CgroupV2 and TasksFDs name.
type InitInput struct {
	// ID is the pod's, for errors.
	ID   string
	Arch string
	// Namespaces names those of the pod that the init joins: ns.net, ns.ipc,
	// ns.uts, ns.user.
	Namespaces []string
	// CgroupV2, TasksFDs and LastCap are as in ContainerInput.
	CgroupV2 string
	TasksFDs []string
	LastCap  int
}

// Init compiles the start of a pod's init: what it could be seen through, its
// root and its namespaces, is empty or the pod's own, and it has no rights.
func Init(in InitInput) (*Program, error) {
	l, err := newList("init of pod "+in.ID, in.Arch)
	if err != nil {
		return nil, err
	}
	l.Clone, l.Cgroup = unix.CLONE_NEWPID|unix.CLONE_NEWNS, in.CgroupV2
	s := &starter{list: l, linux: &specs.Linux{}, lastCap: in.LastCap,
		process: &specs.Process{Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}}}
	c := &container{list: l}
	s.outside(in.TasksFDs)
	for _, ns := range sharedNamespaces {
		for _, name := range in.Namespaces {
			if ns.fd == name {
				l.call(fmt.Sprintf("join the %s namespace", ns.kind), "setns", l.FD(ns.fd), Flag(ns.flag, ns.name))
			}
		}
	}
	s.session()
	c.root()
	s.stdio()
	l.call("keep the executable", "dup3", l.FD("exe"), Int(3), Flag(unix.O_CLOEXEC, "O_CLOEXEC"))
	if slices.Contains(in.Namespaces, "ns.user") {
		s.users = "ns.user"
	}
	s.enterUsers()
	l.call("close all other descriptors", "close_range", Int(4), Flag(0xffffffff, "~0"), Int(0))
	s.rights()
	l.call("execute the init", "execveat", Int(3), l.Str(""), l.vec([]string{"cri-box-init"}, `["cri-box-init"]`), l.vec(nil, "[]"),
		Flag(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"))
	return l.done()
}
