package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpenDirs is how deep a removal goes, with a directory open for each level.
const maxOpenDirs = 64

// RemoveAll removes a directory with all that is in it, as a container left it. Unlike
// os.RemoveAll it holds few descriptors however deep that is: what lies deeper than
// maxOpenDirs is moved up and removed there. Nobody else is to use it any more.
func RemoveAll(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	defer unix.Close(fd)
	r := &remover{top: fd}
	if err := r.empty(fd, 1); err != nil {
		return fmt.Errorf("cannot remove what is in %s: %w", dir, err)
	}
	return os.Remove(dir)
}

type remover struct {
	top   int // the directory to be removed
	moved int // how many were moved there
	buf   [8 << 10]byte
}

// empty removes all that is in a directory.
func (r *remover) empty(dir, depth int) error {
	for {
		names, err := r.someNames(dir)
		if err != nil || len(names) == 0 {
			return err
		}
		removed := 0
		for _, name := range names {
			if e := r.remove(dir, name, depth); e != nil {
				err = errors.Join(err, e)
				continue
			}
			removed++
		}
		if removed == 0 {
			return err
		}
	}
}

// someNames lists the first names of a directory, which is read anew each time: what
// was removed since is not skipped over.
func (r *remover) someNames(dir int) ([]string, error) {
	if _, err := unix.Seek(dir, 0, io.SeekStart); err != nil {
		return nil, err
	}
	n, err := unix.ReadDirent(dir, r.buf[:])
	if err != nil {
		return nil, err
	}
	_, _, names := unix.ParseDirent(r.buf[:n], -1, nil)
	return names, nil
}

func (r *remover) remove(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) { // Linux' own answer for a directory
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w", name, err)
	case depth >= maxOpenDirs && r.moveUp(dir, name) == nil: // else it has to be as it is
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := r.empty(fd, depth+1); err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// moveUp moves a directory to the top, where it is found later on.
func (r *remover) moveUp(dir int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, "deep-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}
