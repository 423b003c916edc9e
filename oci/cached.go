package oci

import (
	"os"

	"golang.org/x/sys/unix"
)

// Walking a path may hang for ever, on a dead NFS say, and take the daemon's
// thread with it. Two ways cannot: RESOLVE_CACHED (openat2(2), Linux 5.12) walks
// only what the kernel has in its cache and needs not ask a file system about;
// and a file system on a block device answers. For all else there is the opener.

// resolveCached is RESOLVE_CACHED of linux/openat2.h.
const resolveCached = 0x20

// cachedPath opens a path without asking any file system; nil if that cannot be.
func cachedPath(dir int, path string, flags, resolve uint64) *os.File {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: resolveCached | resolve})
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// cachedTree clones the mount tree at a path that is cached; nil if it is not.
func cachedTree(path string) *os.File {
	at := cachedPath(unix.AT_FDCWD, path, 0, 0)
	if at == nil {
		return nil
	}
	defer at.Close()
	fd, err := unix.OpenTree(int(at.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// localLog opens parent/last/name for appending if the directory is cached and
// on a block device; nil if it is not, or is not to be opened: the opener then
// says why. No symbolic link below parent is followed.
func localLog(parent, last, name string) *os.File {
	top := cachedPath(unix.AT_FDCWD, parent, unix.O_DIRECTORY, 0)
	if top == nil {
		return nil
	}
	defer top.Close()
	dir := cachedPath(int(top.Fd()), last, unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if dir == nil {
		return nil
	}
	defer dir.Close()
	if !onBlockDevice(dir) {
		return nil
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Mode: 0o640, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// onBlockDevice tells whether a file's file system has a block device: network
// and FUSE file systems have device numbers with major 0. The kernel answers
// from its cache (AT_STATX_DONT_SYNC).
func onBlockDevice(f *os.File) bool {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	return err == nil && st.Dev_major != 0
}
