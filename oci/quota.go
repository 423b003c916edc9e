package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the file system of the root directory counts projects (ext4 or xfs, mounted
// with prjquota), each container's writable layer is one, and the kernel knows its
// size at any moment. Nothing is limited.

// Of <linux/fs.h> and <linux/quota.h>.
const (
	fsGetXAttr  = 0x801c581f      // FS_IOC_FSGETXATTR
	fsSetXAttr  = 0x401c5820      // FS_IOC_FSSETXATTR
	projInherit = 0x200           // FS_XFLAG_PROJINHERIT
	getQuota    = 0x800007<<8 | 2 // QCMD(Q_GETQUOTA, PRJQUOTA)
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	flags, extent, extents, project, cowExtent uint32
	_                                          [8]byte
}

// dqblk is struct if_dqblk.
type dqblk struct {
	blockHard, blockSoft, space, inodeHard, inodeSoft, inodes, blockTime, inodeTime uint64
	valid                                                                           uint32
	_                                                                               uint32
}

// countsProjects tells whether the file system of a directory counts projects.
func countsProjects(dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = quotaOf(fd, 0)
	return err == nil
}

// quotaOf asks what a project has on the file system of fd (quotactl(2)).
func quotaOf(fd int, project uint32) (q dqblk, err error) {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), getQuota, uintptr(project), uintptr(unsafe.Pointer(&q)), 0, 0)
	if errno != 0 {
		return q, os.NewSyscallError("quotactl_fd", errno)
	}
	return q, nil
}

// projectOf is the project of a layer: a function of its upper directory, so that
// it needs no memory, and with a high bit, so that it is none of those that people
// and the kubelet give (theirs begin at 1048577).
func projectOf(upper *unix.Stat_t) uint32 { return 1<<31 | uint32(upper.Ino) }

// startProject makes the empty upper and work directories one project, which all
// that will be made in them inherits. overlay moves files from one to the other,
// which is not possible between projects (rename(2), EXDEV).
func startProject(upper, work string) error {
	var st unix.Stat_t
	if err := unix.Stat(upper, &st); err != nil {
		return fmt.Errorf("cannot count what the container writes: %w", err)
	}
	for _, dir := range []string{upper, work} {
		if err := setProject(dir, projectOf(&st)); err != nil {
			return fmt.Errorf("cannot count what the container writes: %w", err)
		}
	}
	return nil
}

func setProject(dir string, project uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	attr, err := xattrOf(int(f.Fd()))
	if err != nil {
		return err
	}
	attr.project, attr.flags = project, attr.flags|projInherit
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsSetXAttr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return os.NewSyscallError("FS_IOC_FSSETXATTR", errno)
	}
	return nil
}

func xattrOf(fd int) (attr fsxattr, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsGetXAttr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return attr, os.NewSyscallError("FS_IOC_FSGETXATTR", errno)
	}
	return attr, nil
}

// errNotCounted says that a layer is no project: the file system counts none, or
// did not when the layer was made.
var errNotCounted = errors.New("the layer is no project")

// DiskCount is what DiskUse is, now and without a walk, with what overlay needs for
// itself (two directories). False: this layer is not counted.
func (r *Runtime) DiskCount(id string) (DiskUse, bool) {
	if !r.projects {
		return DiskUse{}, false
	}
	u, err := diskCount(filepath.Join(r.containerRoot(id), "upper"))
	return u, err == nil
}

func diskCount(upper string) (DiskUse, error) {
	u := DiskUse{At: time.Now()}
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return u, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return u, err
	}
	attr, err := xattrOf(fd)
	if err != nil {
		return u, err
	}
	if attr.project != projectOf(&st) {
		return u, errNotCounted
	}
	q, err := quotaOf(fd, attr.project)
	if err != nil {
		return u, err
	}
	u.Bytes, u.Inodes = q.space, q.inodes
	return u, fileSystem(fd, &u)
}
