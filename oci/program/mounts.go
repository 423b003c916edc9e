package program

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Made says whether the child makes mount i itself, in its own namespaces,
// instead of being given it as mount.<i>: proc, sysfs, mqueue and, where there
// is a cgroup namespace, cgroup v2. (Outside of one, mounting cgroup2 would
// change the options of the host's.)
func (in *ContainerInput) Made(i int) bool {
	switch in.Spec.Mounts[i].Type {
	case "proc":
		return !in.ProcDonated
	case "sysfs", "mqueue":
		return true
	case "cgroup", "cgroup2":
		return len(in.CgroupMounts) == 0 && hasNamespace(in.Spec, specs.CgroupNamespace)
	}
	return false
}

// procFiles are those of procfs that another file may cover, as LXCFS's do. Below
// others than these a mount could mislead who writes there (CVE-2019-19921).
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo",
	"/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/net/dev",
	"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// mounts makes the file tree. procfs comes last: while there is none, no path
// leads through a magic link to another process's root.
func (c *container) mounts() {
	var proc, files []int
	for i, m := range c.spec.Mounts {
		switch dest := clean(m.Destination); {
		case dest == "/":
			c.fail("mount %d has the destination /, which is the root file system's", i)
		case slices.Contains(procFiles, dest) && c.in.FileMounts[i]:
			files = append(files, i)
		case below(dest, "/proc"):
			c.fail("mount %d has the destination %s: nothing can be mounted below /proc", i, plain(dest))
		case dest == "/proc":
			proc = append(proc, i)
		default:
			c.mount(i)
		}
	}
	if c.spec.Process.Terminal {
		c.console()
	}
	for _, i := range slices.Concat(proc, files) {
		c.mount(i)
	}
	c.workingDir()
	for _, p := range c.spec.Linux.ReadonlyPaths {
		c.readonlyPath(p)
	}
	c.maskedPaths(c.spec.Linux.MaskedPaths)
}

// workingDir makes the working directory in a volume that lacks it; in the root file
// system the caller has. What cannot be made is for who enters it to tell (enterCwd).
func (c *container) workingDir() {
	rel := inRoot(c.spec.Process.Cwd)
	parent := c.parent(clean(c.spec.Process.Cwd), len(c.spec.Mounts))
	if parent == "" {
		return
	}
	at, dir := c.reg(), c.reg()
	c.openat2(at, "see whether the working directory is there", cwd, rel, howDir).Tolerate = anyErrno
	c.when(-at, func() {
		for end := len(inRoot(parent)); end < len(rel); {
			up, start := rel[:end], end+1
			if end = strings.IndexByte(rel[start:], '/') + start; end < start {
				end = len(rel)
			}
			c.openat2(dir, "find /"+plain(up), cwd, up, howDir).Tolerate = anyErrno
			c.call("make /"+plain(rel[:end]), "mkdirat", In(dir), c.text(rel[start:end]), Flag(0o755, "0755")).Tolerate = anyErrno
			c.call("close it", "close", In(dir)).Tolerate = anyErrno
		}
	})
	c.when(at, func() { c.close(at) })
	c.free(dir)
}

// console mounts the container's own terminal, the first of its devpts, on
// /dev/console. It is cloned here, where the devpts is attached: before Linux 6.15
// nothing of a detached one can be.
func (c *container) console() {
	devpts := slices.IndexFunc(c.spec.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
	if devpts < 0 {
		c.fail("process.terminal: no mount is a devpts")
		return
	}
	r := c.reg()
	c.call("clone the terminal", "open_tree", c.FD(fmt.Sprintf("mount.%d", devpts)), c.Str("0"),
		Flag(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC")).Dst = r
	c.attach(mountPoint{dest: "/dev/console", file: true, parent: c.parent("/dev/console", len(c.spec.Mounts)),
		what: "the terminal"}, In(r))
	c.close(r)
}

// mount puts mount i of the spec where it belongs.
func (c *container) mount(i int) {
	m := &c.spec.Mounts[i]
	dest := clean(m.Destination)
	at := mountPoint{dest: dest, file: c.in.FileMounts[i], parent: c.parent(dest, i), what: plain(m.Type)}
	if m.Source != "" && m.Source != m.Type {
		at.what += " " + plain(m.Source)
	}
	if c.in.Made(i) {
		r := c.make(m)
		c.attach(at, In(r))
		c.close(r)
		return
	}
	fd := c.FD(fmt.Sprintf("mount.%d", i))
	c.attach(at, fd)
	if strings.HasPrefix(m.Type, "cgroup") {
		c.controllers(m, fd)
	}
}

// A mountPoint is where and for what something is mounted.
type mountPoint struct {
	dest   string // absolute and clean
	file   bool
	parent string // the mount that dest is in, if it is one of the spec's that may lack it
	what   string
}

// parent gives the destination of the innermost of the first n mounts that
// dest is in, or nothing: then the caller has made the mount point.
func (c *container) parent(dest string, n int) string {
	best, kind := "", ""
	for _, m := range c.spec.Mounts[:n] {
		if d := clean(m.Destination); d != "/" && below(dest, d) && len(d) >= len(best) {
			best, kind = d, m.Type
		}
	}
	if ofKernel(kind) {
		return "" // nothing can be made in there
	}
	return best
}

func ofKernel(kind string) bool {
	switch kind {
	case "proc", "sysfs", "mqueue", "cgroup", "cgroup2":
		return true
	}
	return false
}

// attach moves a detached mount to its place, which is found as a path inside
// the root; the move goes to what was found, not to the path.
func (c *container) attach(at mountPoint, mount Arg) {
	r := c.reg()
	find := "find " + plain(at.dest) + ", where " + at.what + " is to be mounted"
	op := c.openat2(r, find, cwd, inRoot(at.dest), howAny)
	if at.parent != "" {
		op.Tolerate = errnos(unix.ENOENT)
		c.when(-r, func() { c.makePoint(at) })
		c.openat2(r, find, cwd, inRoot(at.dest), howAny).If = -r
	}
	c.moveMount(fmt.Sprintf("mount %s on %s", at.what, plain(at.dest)), mount, r)
	c.close(r)
}

func (c *container) moveMount(why string, mount Arg, to Reg) *Op {
	return c.call(why, "move_mount", mount, c.Str(""), In(to), c.Str(""),
		Flag(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "F_EMPTY_PATH|T_EMPTY_PATH"))
}

// makePoint makes what is missing of a mount point inside another mount. Each
// name is made in a directory that was resolved inside the root.
func (c *container) makePoint(at mountPoint) {
	rel, dir := inRoot(at.dest), c.reg()
	for end := len(inRoot(at.parent)); end < len(rel); {
		start := end + 1
		parent := rel[:end]
		if end = strings.IndexByte(rel[start:], '/') + start; end < start {
			end = len(rel)
		}
		c.openat2(dir, "find /"+plain(parent), cwd, parent, howDir)
		why, name := "make /"+plain(rel[:end]), rel[start:end]
		var op *Op
		if at.file && end == len(rel) {
			op = c.call(why, "mknodat", In(dir), c.text(name), Flag(unix.S_IFREG|0o644, "S_IFREG|0644"), Int(0))
		} else {
			op = c.call(why, "mkdirat", In(dir), c.text(name), Flag(0o755, "0755"))
		}
		op.Tolerate = errnos(unix.EEXIST, unix.EROFS)
		c.call("close it", "close", In(dir))
	}
	c.free(dir)
}

// make makes a file system of the kernel's own, as a detached mount in the
// returned register.
func (c *container) make(m *specs.Mount) Reg {
	kind := m.Type
	if kind == "cgroup" {
		kind = "cgroup2"
	}
	fs, mount := c.reg(), c.reg()
	attrs, names, data := c.options(m)
	c.call("open "+kind, "fsopen", c.Str(kind), Flag(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Dst = fs
	if kind == "proc" && c.paths[specs.PIDNamespace] {
		// This process is not in the namespace that the procfs has to show.
		c.call("choose proc's pid namespace, which takes Linux 6.17", "fsconfig", In(fs),
			Flag(unix.FSCONFIG_SET_FD, "FSCONFIG_SET_FD"), c.Str("pidns"), Null(), c.FD("ns.pid"))
	}
	if m.Source != "" {
		data = append([]string{"source=" + m.Source}, data...) // what /proc/mounts shows
	}
	for _, o := range data {
		k, v, isString := strings.Cut(o, "=")
		cmd, value := Flag(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), Null()
		if isString {
			cmd, value = Flag(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), c.text(v)
		}
		c.call("set "+kind+"'s option "+plain(o), "fsconfig", In(fs), cmd, c.text(k), value, Int(0))
	}
	c.call("make "+kind, "fsconfig", In(fs), Flag(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), Null(), Null(), Int(0))
	c.call("make a mount of "+kind, "fsmount", In(fs), Flag(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), Flag(attrs, names)).Dst = mount
	c.close(fs)
	return mount
}

// controllers puts the cgroup v1 hierarchies into the tmpfs that m is, which is
// mounted already, and closes that for writing.
func (c *container) controllers(m *specs.Mount, tmpfs Arg) {
	attrs, _, _ := c.options(m)
	empty, emptyName := uint64(unix.AT_EMPTY_PATH), "AT_EMPTY_PATH"
	for _, name := range c.in.CgroupMounts {
		controller := strings.TrimPrefix(name, "cgroup.")
		if controller == "" || strings.Contains(controller, "/") {
			c.fail("CgroupMounts: %q is not cgroup.<controller>", name)
		}
		where := plain(clean(m.Destination) + "/" + controller)
		c.call("make "+where, "mkdirat", tmpfs, c.text(controller), Flag(0o755, "0755")).Tolerate = errnos(unix.EEXIST)
		if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
			c.call("make "+where+" read-only", "mount_setattr", c.FD(name), c.Str(""), Flag(empty, emptyName), c.readonly(), Int(32))
		}
		c.call("mount cgroup on "+where, "move_mount", c.FD(name), c.Str(""), tmpfs, c.text(controller),
			Flag(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	}
	if len(c.in.CgroupMounts) > 0 {
		c.call("make "+plain(m.Destination)+" read-only", "mount_setattr", tmpfs, c.Str(""), Flag(empty, emptyName), c.readonly(), Int(32))
	}
}

// readonly is a struct mount_attr that adds MOUNT_ATTR_RDONLY and keeps the rest.
func (c *container) readonly() Arg { return c.words("{+RDONLY}", unix.MOUNT_ATTR_RDONLY, 0, 0, 0) }
