package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMounts bounds what is read of a process's mountinfo, in bytes: a container
// with CAP_SYS_ADMIN may mount as much as it likes.
const maxMounts = 4 << 20

// errNotShm: what the process has at /dev/shm is not what a pod was given.
var errNotShm = errors.New("/dev/shm is no tmpfs there")

// ShmOf returns a detached clone of the tmpfs at /dev/shm in another mount
// namespace. mounts is /proc/PID/mountinfo of a process in it, ns its namespace;
// both stay the caller's. Only a path of tmpfs alone is walked, which no process
// can make hang.
func ShmOf(mounts io.Reader, ns *os.File) (f *os.File, err error) {
	if err := onTmpfs(mounts); err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", err)
	}
	var theirs *os.File
	onOwnThread(func() { theirs, err = cloneThere(ns) })
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if f, err = naturalize(theirs); err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", err)
	}
	return f, nil
}

// cloneThere spoils the calling thread. open_tree(2) clones only what is mounted
// in the caller's own namespace.
func cloneThere(ns *os.File) (*os.File, error) {
	defer runtime.KeepAlive(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", os.NewSyscallError("unshare", err))
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", os.NewSyscallError("setns", err))
	}
	dir, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", os.NewSyscallError("openat2", err))
	}
	defer unix.Close(dir)
	return clone(dir, "", "/dev/shm", false)
}

// naturalize gives a clone that can be cloned again from here: the kernel allows
// that only for detached mounts whose origin is the caller's own namespace. So
// theirs is attached to a detached mount of ours for a moment (Linux 6.15), which
// nobody else sees, and cloned there.
func naturalize(theirs *os.File) (*os.File, error) {
	ours, err := Tmpfs(TmpfsOptions{Size: 4096, Mode: 0o755})
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer runtime.KeepAlive(theirs)
	if err := unix.Mkdirat(int(ours.Fd()), "shm", 0o755); err != nil {
		return nil, os.NewSyscallError("mkdirat", err)
	}
	if err := unix.MoveMount(int(theirs.Fd()), "", int(ours.Fd()), "shm", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, os.NewSyscallError("move_mount", err)
	}
	return clone(int(ours.Fd()), "shm", "/dev/shm", false)
}

// onTmpfs reads in mountinfo (proc(5)) that /dev and /dev/shm are tmpfs.
func onTmpfs(mounts io.Reader) error {
	kinds := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(mounts, maxMounts))
	for lines.Scan() {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) > 4 && len(r) > 0 {
			kinds[l[4]] = r[0] // the last one covers those before
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if kinds["/dev"] != "tmpfs" || kinds["/dev/shm"] != "tmpfs" {
		return errNotShm
	}
	return nil
}
