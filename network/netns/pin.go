package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir is where ip-netns(8) and everything after it look for pinned namespaces.
const Dir = "/run/netns"

// dirMu keeps two Pins from both turning the directory into a mount point.
var dirMu sync.Mutex

// Pin gives the namespace fd a name in the file system: an empty file with the
// namespace mounted on it. path's directory is made as ip-netns(8) does. Pinning
// the same namespace twice is no error; another one under that path is.
func Pin(fd int, path string) error {
	if err := shareDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("cannot pin namespace on %s: %w", path, err)
	}
	if err := pin(fd, path); err != nil {
		return fmt.Errorf("cannot pin namespace on %s: %w", path, err)
	}
	return nil
}

func pin(fd int, path string) error {
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o444)
	switch {
	case err == nil:
		unix.Close(file)
	case !errors.Is(err, unix.EEXIST):
		return err
	default:
		if pinned, err := holds(path, fd); pinned || err != nil {
			return err
		}
	}
	// The descriptor's own path is on the kernel's nsfs; a bind mount of it is
	// allowed in any mount namespace.
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), path, "", unix.MS_BIND, "")
}

// holds says whether path already pins the namespace fd. A plain file, left by
// somebody who was killed before the mount, is neither error nor pin.
func holds(path string, fd int) (bool, error) {
	var have, want unix.Stat_t
	if err := unix.Lstat(path, &have); err != nil {
		return false, err
	}
	if err := unix.Fstat(fd, &want); err != nil {
		return false, err
	}
	if have.Dev == want.Dev && have.Ino == want.Ino {
		return true, nil
	}
	if have.Dev == want.Dev {
		return false, fmt.Errorf("another namespace is pinned there: %w", unix.EEXIST)
	}
	return false, nil
}

// Pinned opens the network namespace that is pinned on path; the file is the
// caller's. A plain file there, or one of another kind, is an error.
func Pinned(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open pinned namespace %s: %w", path, err)
	}
	// NS_GET_NSTYPE (ioctl_ns(2)) tells a network namespace from all else.
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open pinned namespace %s: it is no network namespace", path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Unpin takes the name away; what never was there is no error. The namespace
// lives on as long as a descriptor or process is in it.
func Unpin(path string) error {
	for range 8 { // mounted twice only if somebody else did; bounded all the same
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot unpin namespace from %s: %w", path, err)
		}
	}
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unpin namespace from %s: %w", path, err)
	}
	return nil
}

// shareDir makes dir a shared mount point, so that a pin and its end reach every
// mount namespace copied from this one; otherwise such a copy would keep the
// pod's network alive. This is what ip-netns(8) does, with its lock.
func shareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	dirMu.Lock()
	defer dirMu.Unlock()
	// Pins in a shared directory are shared by themselves: without MS_REC, which would
	// look at each of them every time.
	err := unix.Mount("", dir, "none", unix.MS_SHARED, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point
		return err
	}
	lock, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(lock)
	// Not waited for: whoever holds it is doing the same thing.
	_ = unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB)
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
}
