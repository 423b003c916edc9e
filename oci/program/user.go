package program

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container in a user namespace is made with the host's rights: procfs shows a
// pid namespace that the host made, limits may need CAP_SYS_RESOURCE. The user
// namespace is entered when only the container's own rights are left to take.
// Until then nobody inside sees the process.

// enterUsers enters the user namespace. Mounts that were made outside belong to
// the host, and mount(2) would be refused; a copy of their namespace belongs to
// the pod, and in that copy they are locked: nobody inside takes off a mask
// (mount_namespaces(7), "less privileged").
func (s *starter) enterUsers() {
	if s.users == "" {
		return
	}
	s.call("enter the user namespace", "setns", s.FD(s.users), Flag(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	if s.ownMounts != 0 {
		names := "CLONE_NEWNS"
		if s.ownMounts&unix.CLONE_NEWCGROUP != 0 {
			names += "|CLONE_NEWCGROUP"
		}
		s.call("make the namespaces the pod's own", "unshare", Flag(s.ownMounts, names))
	}
}

// ownMounts are the namespaces that the user namespace is to own.
func (c *container) ownMounts() uint64 {
	flags := uint64(unix.CLONE_NEWNS)
	if _, asked := c.paths[specs.CgroupNamespace]; asked {
		flags |= unix.CLONE_NEWCGROUP
	}
	return flags
}

func (c *container) checkMappings() {
	linux := c.spec.Linux
	joined := c.paths[specs.UserNamespace]
	if len(linux.UIDMappings) > 0 != joined || len(linux.GIDMappings) > 0 != joined {
		c.fail("linux.namespaces has a user namespace and linux.uidMappings and gidMappings, or none of them")
	}
}

// asPodRoot makes what add makes the property of the pod's root. The host's own
// has no id in an id-mapped volume: making a mount point there is EOVERFLOW.
// Capabilities stay, whoever may search the directories on the way.
func (c *container) asPodRoot(add func()) {
	if !c.paths[specs.UserNamespace] {
		add()
		return
	}
	uid, gid := rootOf(c.spec.Linux.UIDMappings), rootOf(c.spec.Linux.GIDMappings)
	if uid < 0 || gid < 0 {
		c.fail("linux.uidMappings and gidMappings do not map 0")
	}
	bits := func(why string, v uint64, name string) {
		c.call(why, "prctl", Flag(unix.PR_SET_SECUREBITS, "PR_SET_SECUREBITS"), Flag(v, name), Int(0), Int(0), Int(0))
	}
	bits("keep capabilities for files", 1<<2, "SECBIT_NO_SETUID_FIXUP")
	c.call(fmt.Sprintf("make files with group %d", gid), "setfsgid", Int(gid))
	c.call(fmt.Sprintf("make files as user %d", uid), "setfsuid", Int(uid))
	add()
	c.call("make files as user 0", "setfsuid", Int(0))
	c.call("make files with group 0", "setfsgid", Int(0))
	bits("clear securebits", 0, "0")
}

// rootOf is the host's id of a user namespace's 0, -1 if there is none.
func rootOf(mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID)
		}
	}
	return -1
}
