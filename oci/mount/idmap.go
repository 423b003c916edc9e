package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoIDMap says that a file system does not support id-mapped mounts.
var ErrNoIDMap = errors.New("its file system does not support id-mapped mounts")

// MapIDs makes the ids of the detached mount f those of the user namespace users:
// what belongs to root on disk belongs to that namespace's root. Mounts below f
// come along where all of them can; else they stay as they are. The error is
// ErrNoIDMap where f itself cannot (mount_setattr(2), EINVAL).
func MapIDs(f, users *os.File) error {
	defer runtime.KeepAlive(users)
	a := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if setAttr(f, unix.AT_RECURSIVE, a) == nil {
		return nil
	}
	err := setAttr(f, 0, a)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot map the ids of %s: %w", f.Name(), ErrNoIDMap)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("cannot map the ids of %s: it is an id-mapped mount already, or of a file system that is not the host's", f.Name())
	}
	return err
}

// A stack is an image's layers with mapped ids: directories of one id-mapped
// clone, which one system call makes however many they are.
type stack struct {
	layers *layers
	users  *os.File
	base   string
	tree   *os.File
}

func (l *layers) mapStack(lowers []string, users *os.File) (*stack, error) {
	s := &stack{layers: l, users: users, base: commonDir(lowers)}
	var err error
	s.tree, err = s.mapped(s.base)
	return s, err
}

// mapped returns an id-mapped clone of dir, which the layers own.
func (s *stack) mapped(dir string) (*os.File, error) {
	f, err := clone(unix.AT_FDCWD, dir, dir, false)
	if err != nil {
		return nil, err
	}
	s.layers.mapped = append(s.layers.mapped, f)
	return f, MapIDs(f, s.users)
}

// open opens a layer in the clone. A layer on a mount of its own is not in there,
// but what that mount covers: it is cloned by itself.
func (s *stack) open(dir string) (int, error) {
	below := strings.TrimPrefix(strings.TrimPrefix(dir, s.base), "/")
	if below == "" {
		below = "."
	}
	fd, err := again(func() (int, error) {
		return unix.Openat(int(s.tree.Fd()), below, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err == nil && sameFile(fd, dir) {
		return fd, nil
	}
	if err == nil {
		unix.Close(fd)
	}
	own, err := s.mapped(dir)
	if err != nil {
		return -1, err
	}
	return again(func() (int, error) {
		return unix.Openat(int(own.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

func sameFile(fd int, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// commonDir is the innermost directory that all of dirs are in, or are.
func commonDir(dirs []string) string {
	base := filepath.Clean(dirs[0])
	for _, d := range dirs[1:] {
		for d = filepath.Clean(d); base != "/" && d != base && !strings.HasPrefix(d, base+"/"); {
			base = filepath.Dir(base)
		}
	}
	return base
}

// openLayersHere opens layers for mount(2), which takes none from a detached
// mount: id-mapped clones cover their originals in the calling thread's own mount
// namespace.
func openLayersHere(lowers []string, upper, work string, users *os.File) (*layers, error) {
	if users == nil {
		return openLayers(lowers, upper, work, nil)
	}
	l, err := openLayers(nil, upper, work, nil) // before they may be covered
	if err != nil {
		return nil, err
	}
	if err := l.cover(lowers, users); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *layers) cover(lowers []string, users *os.File) error {
	s := &stack{layers: l, users: users}
	for _, dir := range lowers {
		f, err := s.mapped(dir)
		if err != nil {
			return err
		}
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("cannot attach layer %s: %w", dir, os.NewSyscallError("move_mount", err))
		}
		fd, err := openDir(dir)
		if err != nil {
			return err
		}
		l.lower = append(l.lower, fd)
	}
	return nil
}
