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
// detached mount of an empty directory; ns.mnt, an empty mount namespace; stdin,
// stdout, stderr; those in Namespaces; those that CgroupV2 and TasksFDs name.
type InitInput struct {
	// ID is the pod's, for errors.
	ID   string
	Arch string
	// Namespaces names those of the pod that the init joins: ns.net, ns.ipc,
	// ns.uts, ns.user.
	Namespaces []string
	// ProcNamespace names an empty mount namespace, to whose root the init attaches
	// a procfs of its pid namespace: before Linux 6.17 nobody outside can make one.
	// Empty means that none is wanted.
	ProcNamespace string
	// CgroupV2, TasksFDs and LastCap are as in ContainerInput.
	CgroupV2 string
	TasksFDs []string
	LastCap  int
}

// Init compiles the start of a pod's init: what it could be seen through, its
// root and its namespaces, is empty or the pod's own, and it has no rights.
func Init(in InitInput) (*Program, error) {
	l, err := newList("init of pod "+in.ID, in.Arch, 64)
	if err != nil {
		return nil, err
	}
	l.Clone, l.Cgroup = unix.CLONE_NEWPID, in.CgroupV2
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
	if in.ProcNamespace == "" {
		c.leaveHost()
	} else {
		c.leaveProc(in.ProcNamespace)
	}
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

// leaveProc makes a procfs while nobody else is in the pid namespace, and goes on
// in a copy of the mount namespace where it has left it: that is detached with
// the rest of what was there before the init's own root (see root).
func (c *container) leaveProc(ns string) {
	fs, proc := c.reg(), c.reg()
	c.call("open proc", "fsopen", c.Str("proc"), Flag(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Dst = fs
	c.call("make proc", "fsconfig", In(fs), Flag(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), Null(), Null(), Int(0))
	c.call("make a mount of proc", "fsmount", In(fs), Flag(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"),
		Flag(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "NOSUID|NODEV|NOEXEC")).Dst = proc
	c.call("enter the namespace that keeps proc", "setns", c.FD(ns), Flag(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	c.call("leave proc there", "move_mount", In(proc), c.Str(""), cwd, c.Str("/"), Flag(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	c.ownEmpty()
	c.close(fs)
	c.close(proc)
}
