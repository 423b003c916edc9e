package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// labelName is the extended attribute that SELinux reads a file's label from.
const labelName = "security.selinux"

// Relabel gives f and all below it on the same mount the label, f itself last.
// Symbolic links are labelled, not followed; what has the label already is not
// written. It must not be used where a file system may not answer.
func Relabel(ctx context.Context, f *os.File, label string) error {
	r := &relabeller{ctx: ctx, label: label}
	var err error
	if r.mount, err = mountID(int(f.Fd()), ""); err == nil {
		err = r.file(int(f.Fd()), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot relabel %s: %w", f.Name(), err)
	}
	return nil
}

type relabeller struct {
	ctx   context.Context
	label string
	mount uint64
}

// file labels what an O_PATH descriptor refers to; a directory after all in it.
func (r *relabeller) file(fd, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if depth > maxDepth {
			return fmt.Errorf("deeper than %d directories", maxDepth)
		}
		if err := r.entries(fd, depth); err != nil {
			return err
		}
	}
	return r.set(fd)
}

func (r *relabeller) entries(fd, depth int) error {
	opened, err := reopen(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(opened), "directory")
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := r.entry(opened, name, depth); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *relabeller) entry(dir int, name string, depth int) error {
	id, err := mountID(dir, name)
	if err != nil || id != r.mount { // of another mount nobody said anything
		return gone(err)
	}
	fd, err := again(func() (int, error) { return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	return r.file(fd, depth+1)
}

// set writes the label through /proc, which takes a descriptor without rights to
// the file (O_PATH) for a path. A file system without labels is no error.
func (r *relabeller) set(fd int) error {
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	have := make([]byte, len(r.label)+1)
	if n, err := unix.Getxattr(path, labelName, have); err == nil && string(have[:n]) == r.label {
		return nil
	}
	err := unix.Setxattr(path, labelName, []byte(r.label), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// gone takes a file that is no longer there for none.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func mountID(dir int, name string) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err
}
