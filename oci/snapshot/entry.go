package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writebackSize is the size in bytes from which a file's writeback is started at
// once, so that the sync at the end has little left to wait for.
const writebackSize = 1 << 20

// holeSize is the unit in which holes of sparse files are kept, in bytes.
const holeSize = 4096

// file writes a regular file in the current directory.
func (t *tree) file(base string, hdr *tar.Header, content io.Reader) error {
	fd := -1
	err := t.replace(base, func() (err error) {
		fd, err = unix.Openat(t.cwd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := t.fill(fd, hdr, content); err != nil {
		return err
	}
	if err := setAttributes(fd, hdr); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(fd, "", timespecs(accessTime(hdr), hdr.ModTime), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot set times: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	t.info.Inodes++
	t.info.Size += hdr.Size
	t.info.Disk += st.Blocks * 512
	return nil
}

// fill copies an entry's content into a file.
func (t *tree) fill(fd int, hdr *tar.Header, content io.Reader) error {
	sparse := isSparse(hdr)
	for done := int64(0); done < hdr.Size; {
		n, err := io.ReadFull(content, (*t.buf)[:min(int64(len(*t.buf)), hdr.Size-done)])
		if err != nil {
			return fmt.Errorf("cannot read content: %w", err)
		}
		if sparse {
			err = writeSparse(fd, (*t.buf)[:n], done)
		} else {
			err = writeAll(fd, (*t.buf)[:n], done)
		}
		if err != nil {
			return fmt.Errorf("cannot write content: %w", err)
		}
		done += int64(n)
	}
	if sparse {
		if err := unix.Ftruncate(fd, hdr.Size); err != nil {
			return fmt.Errorf("cannot set size: %w", err)
		}
	}
	if hdr.Size >= writebackSize {
		// Only a hint: the sync that counts comes later.
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

func writeAll(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

var zeros [holeSize]byte

// writeSparse writes the parts of p that are not zero.
func writeSparse(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n := min(len(p), holeSize)
		if !bytes.Equal(p[:n], zeros[:n]) {
			if err := writeAll(fd, p[:n], offset); err != nil {
				return err
			}
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// directory makes a directory, or gives one that is there its attributes.
func (t *tree) directory(name, base string, hdr *tar.Header) error {
	fd, err := t.mkdir(t.cwd, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := t.remember(name, newDirTimes(hdr)); err != nil {
		return err
	}
	return setAttributes(fd, hdr)
}

func (t *tree) symlink(base string, hdr *tar.Header) error {
	if hdr.Linkname == "" {
		return errors.New("symbolic link has no target")
	}
	err := t.replace(base, func() error { return unix.Symlinkat(hdr.Linkname, t.cwd, base) })
	if err != nil {
		return err
	}
	return t.finishNode(base, hdr)
}

// hardLink gives a file of this layer another name. The target's last component
// is not followed: the link may be to a symbolic link.
func (t *tree) hardLink(name, base string, hdr *tar.Header) error {
	target, err := entryName(hdr.Linkname, t.limits)
	if err != nil || target == "." {
		return fmt.Errorf("cannot link to %.200q: not a file of the layer", hdr.Linkname)
	}
	if target == name {
		return nil
	}
	dir, file := path.Split(target)
	parent, err := openDir(t.root, path.Clean("./"+dir), unix.RESOLVE_IN_ROOT)
	if err != nil {
		return fmt.Errorf("cannot open directory of hard link's target %.200q: %w", hdr.Linkname, err)
	}
	defer unix.Close(parent)
	err = t.replace(base, func() error { return unix.Linkat(parent, file, t.cwd, base, 0) })
	if err != nil {
		return fmt.Errorf("cannot link to %.200q: %w", hdr.Linkname, err)
	}
	return nil
}

// node makes a device or a FIFO.
func (t *tree) node(base string, hdr *tar.Header) error {
	mode := uint32(hdr.Mode) & 0o7777
	var dev uint64
	switch hdr.Typeflag {
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	}
	if hdr.Typeflag != tar.TypeFifo {
		// The kernel's device numbers have 12 and 20 bits.
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	err := t.replace(base, func() error { return unix.Mknodat(t.cwd, base, mode, int(dev)) })
	if err != nil {
		return err
	}
	return t.finishNode(base, hdr)
}

// finishNode sets owner, mode and times of an entry that cannot be opened
// without consequences.
func (t *tree) finishNode(base string, hdr *tar.Header) error {
	if err := unix.Fchownat(t.cwd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set owner: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		// Made a moment ago in a tree that nobody else can reach: not a link.
		if err := unix.Fchmodat(t.cwd, base, uint32(hdr.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("cannot set mode: %w", err)
		}
	}
	if err := setTimes(t.cwd, base, accessTime(hdr), hdr.ModTime); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(t.cwd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	t.info.Inodes++
	t.info.Disk += st.Blocks * 512
	return nil
}

// setAttributes sets owner, mode and extended attributes of an open file or
// directory. The order matters: chown(2) clears setuid and file capabilities.
func setAttributes(fd int, hdr *tar.Header) error {
	if err := setOwnerMode(fd, hdr.Uid, hdr.Gid, uint32(hdr.Mode)&0o7777); err != nil {
		return err
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !xattrAllowed(name) {
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("cannot set extended attribute %.100q: %w", name, err)
		}
	}
	return nil
}

// xattrAllowed says which extended attributes an image may set. Not trusted.*
// and user.overlay.*, by which it would tell overlay where to look for files,
// and no label or signature of security modules.
func xattrAllowed(name string) bool {
	if name == "security.capability" {
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

func setOwnerMode(fd, uid, gid int, mode uint32) error {
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return fmt.Errorf("cannot set owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("cannot set mode: %w", err)
	}
	return nil
}

func accessTime(hdr *tar.Header) time.Time {
	if hdr.AccessTime.IsZero() {
		return hdr.ModTime
	}
	return hdr.AccessTime
}

func timespecs(atime, mtime time.Time) []unix.Timespec {
	spec := func(t time.Time) unix.Timespec {
		return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	}
	return []unix.Timespec{spec(atime), spec(mtime)}
}

func setTimes(parent int, base string, atime, mtime time.Time) error {
	if base == "" {
		base = "."
	}
	if err := unix.UtimesNanoAt(parent, base, timespecs(atime, mtime), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set times: %w", err)
	}
	return nil
}
