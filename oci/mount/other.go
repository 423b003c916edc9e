package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMounts bounds what is read of a process's mountinfo, in bytes: a container
// with CAP_SYS_ADMIN may mount as much as it likes.
const maxMounts = 4 << 20

// errNotShm: what the process has at /dev/shm is not what a pod was given.
var errNotShm = errors.New("/dev/shm is no tmpfs there")

// ShmOf returns the tmpfs at /dev/shm in another mount namespace, as Hold does. mounts is /proc/PID/mountinfo of a process in it, ns its namespace;
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
	if !Detect().CloneDetached {
		return holdAttached(theirs)
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
	if err := enter(ns); err != nil {
		return nil, fmt.Errorf("cannot take over shared memory: %w", err)
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

// ProcOf returns a detached clone of the procfs that a process has at /proc, which
// is that of its PID namespace, or of one below where the process mounted another
// there. pid must stay the process's own; what is mounted over parts of it stays
// behind. Only the last mount at /proc is looked at, and no file of it.
func ProcOf(pid int) (f *os.File, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	ns, err := os.Open(dir + "/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("cannot take over /proc: %w", err)
	}
	defer ns.Close()
	mounts, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot take over /proc: %w", err)
	}
	defer mounts.Close()
	onOwnThread(func() { f, err = procThere(ns, mounts) })
	if err != nil {
		return nil, fmt.Errorf("cannot take over /proc: %w", err)
	}
	return f, nil
}

// procThere spoils the calling thread. What was opened stays what it is, so its
// file system is looked up after that, by the mount's number.
func procThere(ns, mounts *os.File) (*os.File, error) {
	if err := enter(ns); err != nil {
		return nil, err
	}
	at, err := unix.Openat2(unix.AT_FDCWD, "/proc", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	defer unix.Close(at)
	var st unix.Statx_t // the mount's number alone: what is mounted may be dead
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return nil, os.NewSyscallError("statx", err)
	}
	root, kind, err := findMount(mounts, st.Mnt_id)
	if err != nil {
		return nil, err
	}
	if root != "/" || kind != "proc" {
		return nil, fmt.Errorf("/proc there is %s of a %s, not a procfs", root, kind)
	}
	return clone(at, "", "/proc", false)
}

// findMount reads in mountinfo (proc_pid_mountinfo(5)) which directory of which kind
// of file system a mount shows.
func findMount(mounts io.Reader, id uint64) (root, kind string, err error) {
	lines := bufio.NewScanner(io.LimitReader(mounts, maxMounts))
	for lines.Scan() {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) > 4 && len(r) > 0 && l[0] == strconv.FormatUint(id, 10) {
			return l[3], r[0], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", "", err
	}
	return "", "", fmt.Errorf("mount %d is not there", id)
}
