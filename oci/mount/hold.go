package mount

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Before Linux 6.15 nothing that is detached can be cloned (open_tree(2), EINVAL).
// There a mount of which clones are wanted is attached after all: alone, in a mount
// namespace that is held by a descriptor and that no process is in.

// Hold turns a detached mount, which it closes, into what Clone can clone again and
// again: the mount itself or, where the kernel cannot, a mount namespace with
// nothing else in it. The result is the caller's.
func Hold(f *os.File) (*os.File, error) {
	if Detect().CloneDetached {
		return f, nil
	}
	return holdAttached(f)
}

func holdAttached(f *os.File) (ns *os.File, err error) {
	defer f.Close()
	onOwnThread(func() { ns, err = alone(f) })
	return ns, err
}

// EmptyNamespace returns a mount namespace with nothing in it, for a process to
// enter and to attach to "/" what Clone shall take out of it.
func EmptyNamespace() (ns *os.File, err error) {
	onOwnThread(func() { ns, err = alone(nil) })
	return ns, err
}

// Nowhere returns a mount namespace that consists of one empty directory, for
// processes to make copies of. All get the same one; the descriptor is the caller's.
func Nowhere() (*os.File, error) {
	ns, err := emptyNamespace()
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), ns.Name()), nil
}

// alone spoils the calling thread: it enters a new mount namespace, attaches f to
// its root, and returns the namespace.
func alone(f *os.File) (*os.File, error) {
	nowhere, err := emptyNamespace()
	if err != nil {
		return nil, err
	}
	own, err := unix.Open("/proc/thread-self/ns", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /proc/thread-self/ns: %w", err)
	}
	defer unix.Close(own)
	if err := enter(nowhere); err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot unshare mount namespace: %w", err)
	}
	if f != nil {
		defer runtime.KeepAlive(f)
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return nil, fmt.Errorf("cannot attach %s: %w", f.Name(), os.NewSyscallError("move_mount", err))
		}
	}
	ns, err := unix.Openat(own, "mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open mount namespace: %w", err)
	}
	return os.NewFile(uintptr(ns), "mount namespace"), nil
}

// empty is a mount namespace that consists of one empty directory: a copy of it is
// made as fast whatever the host has mounted, and keeps none of that busy.
var empty struct {
	sync.Mutex
	ns *os.File
}

// emptyNamespace makes it, or returns the one that was made.
func emptyNamespace() (*os.File, error) {
	empty.Lock()
	defer empty.Unlock()
	if empty.ns == nil {
		var err error
		onOwnThread(func() { empty.ns, err = makeEmpty() })
		if err != nil {
			return nil, err
		}
	}
	return empty.ns, nil
}

func makeEmpty() (*os.File, error) {
	own, err := unix.Open("/proc/thread-self/ns", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /proc/thread-self/ns: %w", err)
	}
	defer unix.Close(own)
	root, err := Tmpfs(TmpfsOptions{Size: 4096, Mode: 0o755})
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"unshare", func() error { return unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS) }},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"move_mount", func() error {
			return unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
		}},
		{"fchdir", func() error { return unix.Fchdir(int(root.Fd())) }},
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"umount2", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
	} {
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("cannot make an empty mount namespace: %w", os.NewSyscallError(step.name, err))
		}
	}
	ns, err := unix.Openat(own, "mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open mount namespace: %w", err)
	}
	return os.NewFile(uintptr(ns), "empty mount namespace"), nil
}

// enter spoils the calling thread: it leaves the others' working directory and
// mount namespace.
func enter(ns *os.File) error {
	defer runtime.KeepAlive(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot enter mount namespace: %w", os.NewSyscallError("setns", err))
	}
	return nil
}

// isNamespace says whether f is of nsfs, as Hold's result is on older kernels.
func isNamespace(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// cloneHeld returns a clone of what is mounted alone in ns.
func cloneHeld(ns *os.File) (f *os.File, err error) {
	onOwnThread(func() {
		if err = enter(ns); err == nil {
			f, err = clone(unix.AT_FDCWD, "/", ns.Name(), false)
		}
	})
	return f, err
}

// CloneBelow returns a detached bind mount of a file in the root directory of the
// detached mount dir, which it closes.
func CloneBelow(dir *os.File, name string) (f *os.File, err error) {
	defer dir.Close()
	fd, err := again(func() (int, error) {
		return unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", name, err)
	}
	defer unix.Close(fd)
	return cloneWithin(dir, fd, name)
}

// cloneWithin returns a clone of what fd is in the detached mount root.
func cloneWithin(root *os.File, fd int, name string) (f *os.File, err error) {
	if Detect().CloneDetached {
		return clone(fd, "", name, false)
	}
	onOwnThread(func() {
		var ns *os.File
		if ns, err = alone(root); err == nil { // that was the mount's attachment
			f, err = clone(fd, "", name, false)
			ns.Close()
		}
	})
	return f, err
}
