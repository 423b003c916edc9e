package program

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// capNames are the capabilities by number, capabilities(7).
var capNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// A capSet is a set of capabilities; bit n stands for number n.
type capSet uint64

// caps is what a process ends up with.
type caps struct{ bounding, effective, permitted, inheritable, ambient capSet }

func (s *starter) caps() caps {
	spec := s.process.Capabilities
	if spec == nil {
		return caps{}
	}
	c := caps{
		bounding:    s.capSet("bounding", spec.Bounding),
		effective:   s.capSet("effective", spec.Effective),
		permitted:   s.capSet("permitted", spec.Permitted),
		inheritable: s.capSet("inheritable", spec.Inheritable),
		ambient:     s.capSet("ambient", spec.Ambient),
	}
	if extra := (c.effective | c.ambient) &^ c.permitted; extra != 0 {
		s.fail("process.capabilities: %s is effective or ambient but not permitted", extra)
	}
	// A capability is ambient only while it is inheritable, capabilities(7).
	c.inheritable |= c.ambient
	return c
}

func (s *starter) capSet(set string, names []string) capSet {
	var v capSet
	for _, name := range names {
		n := capNumber(name)
		if n < 0 {
			s.fail("process.capabilities.%s: %q is not a capability", set, name)
			continue
		}
		v |= 1 << n
	}
	return v
}

func capNumber(name string) int {
	for i, n := range capNames {
		if n == name {
			return i
		}
	}
	return -1
}

func capName(n int) string {
	if n < len(capNames) {
		return capNames[n]
	}
	return fmt.Sprint("capability ", n)
}

// String names the set's members.
func (c capSet) String() string {
	text := ""
	for n := range 64 {
		if c&(1<<n) != 0 {
			text += "|" + capName(n)
		}
	}
	if text == "" {
		return "none"
	}
	return text[1:]
}

// rights gives up everything that the container does not have. A filter is
// loaded with CAP_SYS_ADMIN or with no_new_privs, seccomp(2): so without the
// latter it comes before the last capset, which it then has to allow.
func (s *starter) rights() {
	c := s.caps()
	late := s.filterLate()
	s.dropBounding(c.bounding)
	s.user()
	loadsAsAdmin := !s.filter.IsZero() && !s.process.NoNewPrivileges
	if loadsAsAdmin {
		admin := capSet(1 << unix.CAP_SYS_ADMIN)
		s.capset("keep only what loading the filter takes", caps{effective: admin, permitted: c.permitted | admin, inheritable: c.inheritable})
	} else {
		s.capset("keep the container's capabilities", c)
	}
	for n := range 64 {
		if c.ambient&(1<<n) != 0 {
			s.call("make "+capName(n)+" ambient", "prctl", Flag(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"),
				Flag(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"), Flag(uint64(n), capName(n)), Int(0), Int(0))
		}
	}
	if s.process.NoNewPrivileges {
		s.call("set no_new_privs", "prctl", Flag(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), Int(1), Int(0), Int(0), Int(0))
	}
	if !late {
		s.loadFilter()
	}
	if loadsAsAdmin {
		s.capset("keep the container's capabilities", c)
	}
	s.innerClone()
	if late {
		s.loadFilter()
	}
}

func (s *starter) dropBounding(keep capSet) {
	last := s.lastCap
	if last <= 0 || last > 63 {
		last = len(capNames) - 1
	}
	for n := range last + 1 {
		if keep&(1<<n) == 0 {
			s.call("drop "+capName(n), "prctl", Flag(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), Flag(uint64(n), capName(n)))
		}
	}
}

// user becomes the container's user; capabilities survive that only as
// permitted ones, and only with keep_caps, which is off again afterwards.
func (s *starter) user() {
	u := s.process.User
	keepCaps := func(why string, v int) {
		if u.UID != 0 {
			s.call(why, "prctl", Flag(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), Int(v))
		}
	}
	keepCaps("keep capabilities over the change of user", 1)
	groups, list := make([]byte, 0, 4*len(u.AdditionalGids)), Null()
	for _, g := range u.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	if len(groups) > 0 {
		list = s.Bytes(groups, fmt.Sprint(u.AdditionalGids))
	}
	s.call("set the supplementary groups", "setgroups", Int(len(u.AdditionalGids)), list)
	uid, gid := Int(int(u.UID)), Int(int(u.GID))
	s.call("set the group", "setresgid", gid, gid, gid)
	s.call("set the user", "setresuid", uid, uid, uid)
	keepCaps("clear securebits", 0)
	s.reenterCwd()
}

// capset sets the three sets that capset(2) does. Version 3: two 32-bit halves.
func (s *starter) capset(why string, c caps) {
	le := binary.LittleEndian
	header := make([]byte, 8)
	le.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
	data := make([]byte, 0, 24)
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []capSet{c.effective, c.permitted, c.inheritable} {
			data = le.AppendUint32(data, uint32(set>>shift))
		}
	}
	s.call(why, "capset", s.Bytes(header, "{version 3}"),
		s.Bytes(data, fmt.Sprintf("{effective %#x, permitted %#x, inheritable %#x}", uint64(c.effective), uint64(c.permitted), uint64(c.inheritable))))
}

func (s *starter) loadFilter() {
	f := s.filter
	if f.IsZero() {
		return
	}
	prog := s.words(fmt.Sprintf("{%d instructions}", f.Len()), uint64(f.Len()), 0) // struct sock_fprog
	s.putAddr(int(prog.value)+8, s.bytes(f.code))
	s.call("load the seccomp filter", "seccomp", Flag(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"),
		Flag(uint64(f.flags), f.flagNames()), prog)
}

// innerFlags makes a sibling that shares no memory with its maker: who has
// CAP_SYS_PTRACE inside reaches the sibling's memory before it executes, and the
// maker stands in the host's pid namespace. The maker waits, so that its own end
// tells that the sibling has executed or ended.
const innerFlags = unix.CLONE_PARENT | unix.CLONE_VFORK | unix.CLONE_PARENT_SETTID | uint64(unix.SIGCHLD)

// innerClone makes the process that executes, inside the pid namespace.
func (s *starter) innerClone() {
	if !s.inner {
		return
	}
	op := s.call("enter the pid namespace", "clone",
		Flag(innerFlags, "CLONE_PARENT|CLONE_VFORK|CLONE_PARENT_SETTID|SIGCHLD"), Int(0), Page(PageInnerPID, "&inner"), Int(0), Int(0))
	op.Leave = true
	s.call("make a session", "setsid").Tolerate = errnos(unix.EPERM)
	if s.process.Terminal {
		s.controlTerminal()
	}
}

// filterLate says whether the filter is to be loaded by the inner clone, since
// it would refuse what makes that one. It is a mistake if it refuses what has to
// come after it in any case.
func (s *starter) filterLate() bool {
	if s.filter.IsZero() {
		return false
	}
	if !s.allowed("execve", 1, 1, 1) {
		s.fail("the seccomp profile refuses execve(2), by which the container starts")
	}
	admin := !s.process.NoNewPrivileges
	if admin && !s.allowed("capset", 1, 1) {
		s.fail("the seccomp profile refuses capset(2), which has to follow it as noNewPrivileges is not set")
	}
	if !s.inner {
		return false
	}
	refused := ""
	switch {
	case !s.allowed("clone", innerFlags, 0, 1):
		refused = "clone(2)"
	case !s.allowed("setsid"):
		refused = "setsid(2)"
	case s.process.Terminal && !s.allowed("ioctl", 0, unix.TIOCSCTTY, 0):
		refused = "ioctl(2) with TIOCSCTTY"
	}
	if refused != "" && admin {
		s.fail("the seccomp profile refuses %s, by which a process enters a pid namespace with others in it: allow it or set noNewPrivileges", refused)
	}
	return refused != ""
}

// allowed says whether the filter lets a call pass.
func (s *starter) allowed(name string, args ...uint64) bool {
	var a [6]uint64
	copy(a[:], args)
	switch s.filter.Action(s.Arch, s.numbers[name], a) & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG:
		return true
	}
	return false
}
