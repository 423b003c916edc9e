package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// MakePoint makes sure that dest exists inside the detached root, as a
// directory or as a file, so that something can be mounted there. Missing
// directories are made with mode 0755, a missing file empty. Symbolic links are
// followed inside the root, also those whose target is still missing, as
// /etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf in an image. It
// returns the path without symbolic links: mount there, not on dest.
func MakePoint(root *os.File, dest string, dir bool, o Owner) (string, error) {
	return makePoint(root, dest, dir, walkOptions{missing: o.missing(dir)})
}

// An Owner is whom what is made belongs to, as the host counts: root where there
// is no user namespace.
type Owner struct{ UID, GID int }

func (o Owner) missing(dir bool) func(int, string, bool) error {
	if dir {
		return makeDirs(0o755, o.UID, o.GID)
	}
	return o.makeDirsAndFile
}

// MakePlainPoint is MakePoint for the directories that make a container safe,
// /proc, /sys and /dev: a symbolic link in an image must not move them.
func MakePlainPoint(root *os.File, dest string, o Owner) error {
	_, err := makePoint(root, dest, true, walkOptions{missing: o.missing(true), plain: true})
	return err
}

func makePoint(root *os.File, dest string, dir bool, o walkOptions) (string, error) {
	defer runtime.KeepAlive(root)
	w, err := walkIn(root, dest, o)
	if err != nil {
		return "", fmt.Errorf("cannot make mount point %s: %w", dest, err)
	}
	defer w.close()
	at := w.path()
	if at == "/" {
		return "", fmt.Errorf("cannot make mount point %s: it is the root itself", dest)
	}
	var st unix.Stat_t
	if err := unix.Fstat(w.fd(), &st); err != nil {
		return "", fmt.Errorf("cannot make mount point %s: %w", dest, err)
	}
	switch isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case isDir && !dir:
		return "", fmt.Errorf("cannot make mount point %s: %s is a directory, what is mounted is a file", dest, at)
	case !isDir && dir:
		return "", fmt.Errorf("cannot make mount point %s: %s is a file, what is mounted is a directory", dest, at)
	}
	return at, nil
}

// MkdirIn makes sure that path is a directory inside the detached root. It and
// its missing parents are made with that mode and owner; what exists is left as
// it is.
func MkdirIn(root *os.File, path string, mode uint32, uid, gid int) error {
	defer runtime.KeepAlive(root)
	w, err := walkIn(root, path, walkOptions{missing: makeDirs(mode, uid, gid)})
	if err != nil {
		return fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	defer w.close()
	var st unix.Stat_t
	if err := unix.Fstat(w.fd(), &st); err != nil {
		return fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("cannot make directory %s: %w", path, unix.ENOTDIR)
	}
	return nil
}

// makeDirs makes what a walk misses as directories.
func makeDirs(mode uint32, uid, gid int) func(int, string, bool) error {
	return func(dir int, name string, _ bool) error {
		if err := unix.Mkdirat(dir, name, mode); err != nil {
			return err
		}
		fd, err := again(func() (int, error) {
			return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// mkdir(2) took the umask off the mode.
		return errors.Join(unix.Fchown(fd, uid, gid), unix.Fchmod(fd, mode))
	}
}

// makeDirsAndFile makes the last name that a walk misses as an empty file.
func (o Owner) makeDirsAndFile(dir int, name string, last bool) error {
	if !last {
		return makeDirs(0o755, o.UID, o.GID)(dir, name, false)
	}
	fd, err := again(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if o == (Owner{}) {
		return nil
	}
	return unix.Fchown(fd, o.UID, o.GID)
}

// ReadFileIn reads the regular file at path inside the detached root, such as
// /etc/passwd. A file longer than limit bytes is an error, and so is anything
// that is no regular file: it is not opened (opening a device can act). The
// error of a missing file is fs.ErrNotExist.
func ReadFileIn(root *os.File, path string, limit int64) ([]byte, error) {
	defer runtime.KeepAlive(root)
	w, err := walkIn(root, path, walkOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer w.close()
	f, err := openRegular(w.fd())
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("cannot read %s: longer than %d bytes", path, limit)
	}
	return data, nil
}

// openRegular opens the file that an O_PATH descriptor refers to for reading,
// if it is a regular one.
func openRegular(fd int) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	opened, err := reopen(fd, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(opened), "regular file"), nil
}

// reopen opens what an O_PATH descriptor refers to, see open(2) on O_PATH.
func reopen(fd, flags int) (int, error) {
	return again(func() (int, error) {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_CLOEXEC, 0)
	})
}
