package program

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are those of mount(8) that are a mount's attributes, fsmount(2).
var mountOptions = map[string]struct {
	set, clear uint64
	name       string
}{
	"ro":          {set: unix.MOUNT_ATTR_RDONLY, name: "RDONLY"},
	"rw":          {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":      {set: unix.MOUNT_ATTR_NOSUID, name: "NOSUID"},
	"suid":        {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":       {set: unix.MOUNT_ATTR_NODEV, name: "NODEV"},
	"dev":         {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":      {set: unix.MOUNT_ATTR_NOEXEC, name: "NOEXEC"},
	"exec":        {clear: unix.MOUNT_ATTR_NOEXEC},
	"noatime":     {set: unix.MOUNT_ATTR_NOATIME, name: "NOATIME"},
	"strictatime": {set: unix.MOUNT_ATTR_STRICTATIME, name: "STRICTATIME"},
	"nodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME, name: "NODIRATIME"},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW, name: "NOSYMFOLLOW"},
	"relatime":    {},
	"defaults":    {},
	"private":     {},
	"rprivate":    {},
}

// attrNames gives the order in which attributes are shown.
var attrNames = []string{"ro", "nosuid", "nodev", "noexec", "noatime", "strictatime", "nodiratime", "nosymfollow"}

// options splits a made mount's options into attributes of the mount and
// options of its file system. A cgroup mount is read-only unless it says rw.
func (c *container) options(m *specs.Mount) (attrs uint64, names string, data []string) {
	if m.Type == "cgroup" || m.Type == "cgroup2" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	for _, o := range m.Options {
		f, known := mountOptions[o]
		switch o {
		case "shared", "rshared", "slave", "rslave", "unbindable", "runbindable", "bind", "rbind":
			c.fail("mount on %s: option %s does not go with type %s", plain(m.Destination), o, m.Type)
		}
		if !known {
			data = append(data, o)
			continue
		}
		attrs = attrs&^f.clear | f.set
	}
	for _, n := range attrNames {
		if attrs&mountOptions[n].set == mountOptions[n].set {
			names += "|" + mountOptions[n].name
		}
	}
	if names == "" {
		return attrs, "0", data
	}
	return attrs, names[1:], data
}

// absent are the errors that say that there is nothing to protect.
var absent = errnos(unix.ENOENT, unix.ENOTDIR)

// readonlyPath makes a path read-only, if it exists, and keeps all other flags
// of its mount.
func (c *container) readonlyPath(p string) {
	at, tree := c.reg(), c.reg()
	name := plain(clean(p))
	c.openat2(at, "find "+name+" to make it read-only", cwd, inRoot(p), howAny).Tolerate = absent
	c.when(at, func() {
		c.call("clone "+name, "open_tree", In(at), c.Str(""),
			Flag(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC,
				"AT_EMPTY_PATH|AT_RECURSIVE|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC")).Dst = tree
		c.call("make "+name+" read-only", "mount_setattr", In(tree), c.Str(""),
			Flag(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, "AT_EMPTY_PATH|AT_RECURSIVE"), c.readonly(), Int(32))
		c.moveMount("mount "+name+" read-only", In(tree), at)
		c.close(tree)
		c.close(at)
	})
}

// maskedPaths covers paths, if they exist: a directory with an empty one, a
// file with /dev/null. Which of the two it is shows when the path is opened.
//
// A detached mount cannot be cloned before Linux 6.15, an attached one can: so
// the first path gets the donated mount itself, and each following one a clone
// that was made of it once it was attached.
func (c *container) maskedPaths(paths []string) {
	if len(paths) == 0 {
		return
	}
	dirMask, fileMask := c.spare("mask.dir"), c.spare("mask.file")
	dir, file := c.reg(), c.reg()
	for _, p := range paths {
		name, rel := plain(clean(p)), inRoot(p)
		c.openat2(dir, "find directory "+name+" to mask it", cwd, rel, howDir).Tolerate = absent
		none := c.call("say that there is no file yet", "close", Int(-1))
		none.Dst, none.Tolerate = file, errnos(unix.EBADF)
		find := c.openat2(file, "find file "+name+" to mask it", cwd, rel, howAny)
		find.If, find.Tolerate = -dir, absent
		c.when(dir, func() { c.mask(name, "mask.dir", dirMask, dir) })
		c.when(file, func() { c.mask(name, "mask.file", fileMask, file) })
	}
	c.close(dirMask)
	c.close(fileMask)
	c.free(dir)
	c.free(file)
}

// spare gives a descriptor of its own for a mask, to be replaced by clones.
func (c *container) spare(fd string) Reg {
	r := c.reg()
	c.call("take "+fd, "fcntl", c.FD(fd), Flag(unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"), Int(3)).Dst = r
	return r
}

// mask moves the mount in register spare onto what at is, and makes the next.
func (c *container) mask(name, fd string, spare, at Reg) {
	c.moveMount("mask "+name, In(spare), at)
	c.call("close it", "close", In(spare))
	c.call("close it", "close", In(at))
	c.call("make the next mask", "open_tree", c.FD(fd), c.Str(""),
		Flag(unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC,
			"AT_EMPTY_PATH|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC")).Dst = spare
}
