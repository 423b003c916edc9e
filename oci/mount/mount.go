// Package mount makes mounts that are attached nowhere.
//
// Every function returns a descriptor of a detached mount tree (fsmount(2),
// open_tree(2)) which the caller owns and closes; the last close takes the
// mount away. A container's child moves it to its place with move_mount(2), in
// its own mount namespace. The host's mount namespace is never changed, so
// there is nothing to leak and nothing that others have to re-read.
//
// Paths below a container's root are resolved by descriptor, one name at a
// time, and never leave that root. Paths given as a string are cri-box's own.
package mount

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Propagation says which mount events a mount shares with others, see
// mount_namespaces(7).
type Propagation uint64

// The propagations that CRI knows. Keep leaves what the clone came with: a
// clone of a shared mount is a member of the same peer group.
const (
	Keep    Propagation = 0
	Private Propagation = unix.MS_PRIVATE
	Slave   Propagation = unix.MS_SLAVE
	Shared  Propagation = unix.MS_SHARED
)

// Attr is what SetAttr changes; false and Keep leave things as they are.
type Attr struct {
	// ReadOnly makes the mount itself read-only, not the mounts below it.
	ReadOnly bool
	// RecursiveReadOnly makes the mounts below it read-only as well.
	RecursiveReadOnly bool
	NoExec            bool
	NoDev             bool
	NoSUID            bool
	// Propagation is set for the mount and all mounts below it.
	Propagation Propagation
}

// SetAttr changes the attributes of the detached mount f.
func SetAttr(f *os.File, a Attr) error {
	defer runtime.KeepAlive(f)
	below := unix.MountAttr{Propagation: uint64(a.Propagation)}
	if a.RecursiveReadOnly {
		below.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := setAttr(f, unix.AT_RECURSIVE, &below); err != nil {
		return err
	}
	return setAttr(f, 0, &unix.MountAttr{Attr_set: a.flags()})
}

func setAttr(f *os.File, flags uint, a *unix.MountAttr) error {
	if *a == (unix.MountAttr{}) {
		return nil
	}
	if err := unix.MountSetattr(int(f.Fd()), "", flags|unix.AT_EMPTY_PATH, a); err != nil {
		return fmt.Errorf("cannot set attributes of mount %s: %w", f.Name(), err)
	}
	return nil
}

func (a Attr) flags() uint64 {
	var flags uint64
	for _, f := range []struct {
		on  bool
		bit uint64
	}{
		{a.ReadOnly, unix.MOUNT_ATTR_RDONLY},
		{a.NoExec, unix.MOUNT_ATTR_NOEXEC},
		{a.NoDev, unix.MOUNT_ATTR_NODEV},
		{a.NoSUID, unix.MOUNT_ATTR_NOSUID},
	} {
		if f.on {
			flags |= f.bit
		}
	}
	return flags
}

// Clone returns a detached bind mount of what f refers to: a directory or a
// file, such as the slave of a terminal. With recursive the mounts below come
// along. The clone keeps f's propagation. What is on a detached mount can be
// cloned everywhere only if it comes from Hold.
func Clone(f *os.File, recursive bool) (*os.File, error) {
	defer runtime.KeepAlive(f)
	if !Detect().CloneDetached && isNamespace(f) {
		return cloneHeld(f)
	}
	return clone(int(f.Fd()), "", f.Name(), recursive)
}

// BindOwn returns a detached, private bind mount of one of cri-box's own files
// or directories, such as a pod's hosts file. The last name is not followed if
// it is a symbolic link. It must not be used for a path that a stranger
// controls or that may be on a dead volume.
func BindOwn(path string) (*os.File, error) {
	f, err := clone(unix.AT_FDCWD, path, path, false)
	if err != nil {
		return nil, err
	}
	if err := SetAttr(f, Attr{Propagation: Private}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func clone(dir int, path, name string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_SYMLINK_NOFOLLOW)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := again(func() (int, error) { return unix.OpenTree(dir, path, flags) })
	if err != nil {
		return nil, fmt.Errorf("cannot clone mount %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// again repeats a call that a signal interrupted; the Go runtime sends itself
// signals for preemption.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}
