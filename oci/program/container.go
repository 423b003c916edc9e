package program

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A ContainerInput is a container's runtime-spec and what a spec cannot say.
//
// The program needs these descriptors, by name, all made by the caller:
//
//	rootfs               the root file system, a detached mount with all its attributes
//	ns.mnt               a mount namespace with an empty directory as its root and nothing
//	                     else, private
//	mount.<i>            spec.Mounts[i], a detached mount with all its attributes; not for
//	                     those that the child makes itself (see Made)
//	cgroup.<controller>  see CgroupMounts
//	ns.net ns.ipc ns.uts ns.pid ns.user   for each of these in the spec that has a path
//	mask.file mask.dir   what covers masked paths: detached mounts of /dev/null and of
//	                     an empty read-only tmpfs; only with masked paths
//	stdin stdout stderr  without a terminal
//	tty                  with one: the slave, the first terminal of the spec's devpts
type ContainerInput struct {
	// ID is the container's, for errors.
	ID string
	// Arch is amd64 or arm64.
	Arch string
	// Spec is complete; the rootfs being read-only, device nodes and sysctls are
	// done by the caller, on the rootfs, on /dev and in the namespaces.
	Spec *specs.Spec
	// Filter is the compiled linux.seccomp.
	Filter Filter
	// CgroupV2 names the descriptor of the cgroup that the child is born into, or
	// is empty.
	CgroupV2 string
	// TasksFDs names cgroup v1 "tasks" files, open for writing.
	TasksFDs []string
	// UnshareCgroup makes the cgroup namespace after the v1 joins, instead of
	// with the clone, so that its root is the container's own cgroup.
	UnshareCgroup bool
	// CgroupMounts names, for cgroup v1, detached mounts "cgroup.<controller>",
	// each to be put at <controller> in the tmpfs that the spec's cgroup mount is.
	CgroupMounts []string
	// FileMounts says which mounts have a file as their source, not a directory.
	FileMounts map[int]bool
	// ProcDonated says that proc is mount.<i> as well. A joined pid namespace
	// needs that before Linux 6.17, which can make a procfs of another namespace.
	ProcDonated bool
	// LastCap is the kernel's /proc/sys/kernel/cap_last_cap; 0 stands for 40.
	LastCap int
}

// Container compiles a container's start, from clone3 to execve.
//
// If others live in the container's pid namespace already, the process that
// prepares stays outside it, and the one that executes is a child which it
// clones at the end, when it has no more rights than the container: its pid is
// at PageInnerPID of the report page. The one that prepares, whom nobody inside can
// see, shares the spawner's memory; the inner one has a copy (Fork), since
// CAP_SYS_PTRACE inside reaches that.
//
// A user namespace is joined, last of all (user.go).
func Container(in ContainerInput) (*Program, error) {
	l, err := newList("container "+in.ID, in.Arch, containerRoom)
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", l.Name, err)
	}
	c := &container{list: l, in: &in, spec: in.Spec}
	c.namespaces()
	s := &starter{list: l, process: in.Spec.Process, linux: in.Spec.Linux, filter: in.Filter,
		lastCap: in.LastCap, inner: c.paths[specs.PIDNamespace]}
	if c.paths[specs.UserNamespace] {
		s.users, s.ownMounts = "ns.user", c.ownMounts()
	}
	l.Cgroup = in.CgroupV2
	l.Fork = s.inner

	s.outside(in.TasksFDs)
	c.join()
	s.session()
	c.leaveHost()
	c.root()
	c.asPodRoot(c.mounts)
	s.inside()
	s.rights()
	s.execute()
	return l.done()
}

type container struct {
	*list
	in    *ContainerInput
	spec  *specs.Spec
	paths map[specs.LinuxNamespaceType]bool // namespaces of the spec: true means joined
}

func (in *ContainerInput) check() error {
	switch {
	case in.Spec == nil || in.Spec.Process == nil || in.Spec.Linux == nil:
		return errors.New("the spec has no process or no linux section")
	case in.Spec.Linux.Seccomp != nil && in.Filter.IsZero():
		return errors.New("the spec has a seccomp profile, but no compiled filter was given")
	case in.Spec.Linux.TimeOffsets != nil:
		return errors.New("linux.timeOffsets: time namespaces are not supported")
	}
	return checkProcess(in.Spec.Process)
}

// A namespace of those that a container may share with its pod.
var sharedNamespaces = []struct {
	kind specs.LinuxNamespaceType
	fd   string
	flag uint64
	name string
}{
	{specs.NetworkNamespace, "ns.net", unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{specs.IPCNamespace, "ns.ipc", unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{specs.UTSNamespace, "ns.uts", unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	{specs.PIDNamespace, "ns.pid", unix.CLONE_NEWPID, "CLONE_NEWPID"},
}

// namespaces sets the clone flags. The mount namespace is always new, but no copy of
// the host's (see leaveHost).
func (c *container) namespaces() {
	c.paths = map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.spec.Linux.Namespaces {
		if _, twice := c.paths[ns.Type]; twice {
			c.fail("linux.namespaces has %s twice", ns.Type)
		}
		c.paths[ns.Type] = ns.Path != ""
		switch ns.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
		case specs.MountNamespace, specs.CgroupNamespace:
			if ns.Path != "" {
				c.fail("linux.namespaces: a %s namespace cannot be joined, only made", ns.Type)
			}
		case specs.UserNamespace:
			if ns.Path == "" {
				c.fail("linux.namespaces: a user namespace can only be joined: it needs a path")
			}
		default:
			c.fail("linux.namespaces: %s namespaces are not supported", ns.Type)
		}
	}
	c.checkMappings()
	for _, ns := range sharedNamespaces {
		if joined, asked := c.paths[ns.kind]; asked && !joined {
			c.Clone |= ns.flag
		}
	}
	if _, asked := c.paths[specs.CgroupNamespace]; asked && !c.in.UnshareCgroup {
		c.Clone |= unix.CLONE_NEWCGROUP
	}
}

// join enters the pod's namespaces. Joining a pid namespace concerns only the
// children of the caller, setns(2).
func (c *container) join() {
	for _, ns := range sharedNamespaces {
		if c.paths[ns.kind] {
			c.call(fmt.Sprintf("join the %s namespace", ns.kind), "setns", c.FD(ns.fd), Flag(ns.flag, ns.name))
		}
	}
	if _, asked := c.paths[specs.CgroupNamespace]; asked && c.in.UnshareCgroup {
		c.call("make the cgroup namespace", "unshare", Flag(unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"))
	}
	if c.Clone&unix.CLONE_NEWUTS == 0 {
		return // the pod's or the host's names are not this container's to set
	}
	if h := c.spec.Hostname; h != "" {
		c.call("set the host name", "sethostname", c.text(h), Int(len(h)))
	}
	if d := c.spec.Domainname; d != "" {
		c.call("set the domain name", "setdomainname", c.text(d), Int(len(d)))
	}
}

// leaveHost goes on in a copy of an empty mount namespace. A copy of the host's would
// cost as much as the host has mounts, to make and to take apart: several for each
// pod of the node.
func (c *container) leaveHost() {
	c.call("leave the host's mounts", "setns", c.FD("ns.mnt"), Flag(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	c.ownEmpty()
}

func (c *container) ownEmpty() {
	c.call("go on in a copy of the empty namespace", "unshare", Flag(unix.CLONE_NEWNS, "CLONE_NEWNS"))
}

// root makes the rootfs this process's root and forgets the one before.
//
// The rootfs is put on top of "/", by path: a descriptor of a host directory
// belongs to the host's mount namespace, where nothing may be mounted from here.
func (c *container) root() {
	c.call("attach the root file system", "move_mount", c.FD("rootfs"), c.Str(""), cwd, c.Str("/"),
		Flag(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	c.call("enter the root file system", "fchdir", c.FD("rootfs"))
	c.call("make it the root", "pivot_root", c.Str("."), c.Str("."))
	c.call("detach the empty root", "umount2", c.Str("."), Flag(unix.MNT_DETACH, "MNT_DETACH"))
	c.call("go to the root", "chdir", c.Str("/"))
}
