package mount

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// TmpfsOptions says what a tmpfs is like.
type TmpfsOptions struct {
	// Size is its limit in bytes; 0 is the kernel's default, half of the memory.
	Size int64
	// Mode is of its root directory, with the sticky and set-id bits as in chmod(2).
	Mode uint32
	// UID and GID own its root directory.
	UID, GID int
	// Attr is what its mount allows.
	Attr Attr
	// Label, if set, is the SELinux label of all files in it.
	Label string
}

// Tmpfs returns a new, empty tmpfs.
func Tmpfs(o TmpfsOptions) (*os.File, error) {
	c := newContext("tmpfs")
	c.set("source", "tmpfs")
	if o.Size > 0 {
		c.set("size", strconv.FormatInt(o.Size, 10))
	}
	c.set("mode", strconv.FormatUint(uint64(o.Mode), 8))
	if o.UID != 0 || o.GID != 0 {
		c.set("uid", strconv.Itoa(o.UID))
		c.set("gid", strconv.Itoa(o.GID))
	}
	c.label(o.Label)
	return c.mount(int(o.Attr.flags()))
}

// EmptyReadOnlyDir returns an empty directory to cover a directory that a
// container shall not see. One is enough for a container: Clone it.
func EmptyReadOnlyDir() (*os.File, error) {
	f, err := Tmpfs(TmpfsOptions{Size: 4096, Mode: 0o555, Attr: Attr{ReadOnly: true, NoExec: true, NoDev: true, NoSUID: true}})
	if err != nil {
		return nil, fmt.Errorf("cannot make empty directory: %w", err)
	}
	return f, nil
}

// Devpts returns a new devpts instance, whose terminals belong to the host's
// group gid (without a user namespace 5, tty) and have that SELinux label, if any.
func Devpts(gid int, label string) (*os.File, error) {
	f, err := devpts(uint64(gid), label)
	if err != nil && gid > math.MaxInt32 {
		// Linux 6.1 takes no more than an int here, and digits alone: the negative
		// one that is this group, as the unsigned long of which it is made.
		return devpts(uint64(int32(uint32(gid))), label)
	}
	return f, err
}

func devpts(gid uint64, label string) (*os.File, error) {
	c := newContext("devpts")
	c.set("source", "devpts")
	c.set("ptmxmode", "0666")
	c.set("mode", "0620")
	c.set("gid", strconv.FormatUint(gid, 10))
	c.label(label)
	return c.mount(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC)
}

// OpenPTY opens a new terminal in the devpts instance: the master for whoever
// attaches, the slave for the process. The slave cloned (Clone) is what is
// mounted on /dev/console.
func OpenPTY(devpts *os.File) (master, slave *os.File, err error) {
	defer runtime.KeepAlive(devpts)
	fd, err := again(func() (int, error) {
		return unix.Openat(int(devpts.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "terminal master")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("cannot unlock terminal: %w", err)
	}
	// By descriptor, not by the name /dev/pts/N, which could be any file.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, fmt.Errorf("cannot open terminal: %w", errno)
	}
	return master, os.NewFile(peer, "terminal"), nil
}

// Proc returns a procfs of the calling process's PID namespace, with nothing looked up
// in it yet.
func Proc() (*os.File, error) {
	return newContext("proc").mount(int(Attr{NoExec: true, NoDev: true, NoSUID: true}.flags()))
}
