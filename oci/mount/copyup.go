package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of CopyUp. An image can name "/" as its volume.
const (
	maxCopyEntries = 1 << 20
	maxCopyBytes   = 64 << 30
	maxCopyDepth   = 256
)

// CopyUp copies what an image has at path, inside the detached root, into the
// host directory dst, which is cri-box's own and empty: the first content of an
// image's VOLUME. Owners, modes, times, extended attributes and holes are kept;
// hard links become files of their own; devices and sockets are left out.
// Nothing at path is no error. It ends early with ctx.
func CopyUp(ctx context.Context, root *os.File, path, dst string) error {
	defer runtime.KeepAlive(root)
	w, err := walkIn(root, path, walkOptions{})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot copy volume %s: %w", path, err)
	}
	defer w.close()
	to, err := again(func() (int, error) {
		return unix.Open(dst, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return fmt.Errorf("cannot open volume directory %s: %w", dst, err)
	}
	defer unix.Close(to)
	c := &copier{ctx: ctx, entries: maxCopyEntries, bytes: maxCopyBytes}
	if err := c.tree(w.fd(), to); err != nil {
		return fmt.Errorf("cannot copy volume %s: %w", path, err)
	}
	return nil
}

// A copier lives for one CopyUp, and so may hold its context.
type copier struct {
	ctx     context.Context
	entries int   // how many more
	bytes   int64 // how many more
	// What the kernel gives at most, XATTR_LIST_MAX and XATTR_SIZE_MAX.
	names, value [64 << 10]byte
}

// tree copies the directory from (O_PATH) onto the directory to.
func (c *copier) tree(from, to int) error {
	fd, err := reopen(from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return c.dir(os.NewFile(uintptr(fd), "volume"), to, 0)
}

// dir copies the entries of from, which it closes, and then from's attributes.
func (c *copier) dir(from *os.File, to, depth int) error {
	defer from.Close()
	if depth > maxCopyDepth {
		return fmt.Errorf("deeper than %d directories", maxCopyDepth)
	}
	for {
		entries, err := from.Readdirnames(256)
		for _, name := range entries {
			if err := c.entry(int(from.Fd()), to, name, depth); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return c.attributes(int(from.Fd()), to)
		}
		if err != nil {
			return err
		}
	}
}

func (c *copier) entry(from, to int, name string, depth int) error {
	if c.entries--; c.entries < 0 {
		return fmt.Errorf("more than %d entries", maxCopyEntries)
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.subdir(from, to, name, depth)
	case unix.S_IFREG:
		return c.file(from, to, name)
	case unix.S_IFLNK:
		return copyLink(from, to, name, &st)
	case unix.S_IFIFO:
		return copyFIFO(to, name, &st)
	}
	return nil
}

func (c *copier) subdir(from, to int, name string, depth int) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	target, err := again(func() (int, error) { return unix.Openat(to, name, flags, 0) })
	if err != nil {
		return err
	}
	defer unix.Close(target)
	source, err := again(func() (int, error) { return unix.Openat(from, name, flags, 0) })
	if err != nil {
		return err
	}
	return c.dir(os.NewFile(uintptr(source), name), target, depth+1)
}

func (c *copier) file(from, to int, name string) error {
	path, err := again(func() (int, error) {
		return unix.Openat(from, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(path)
	source, err := openRegular(path)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := again(func() (int, error) {
		return unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := c.content(int(source.Fd()), target); err != nil {
		return err
	}
	return c.attributes(int(source.Fd()), target)
}

// content copies a file's data and keeps its holes: a file of 100 GB may be all
// hole.
func (c *copier) content(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := unix.Ftruncate(to, st.Size); err != nil {
		return err
	}
	for at := int64(0); at < st.Size; {
		start, err := unix.Seek(from, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(from, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := c.extent(from, to, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (c *copier) extent(from, to int, start, end int64) error {
	if c.bytes -= end - start; c.bytes < 0 {
		return fmt.Errorf("more than %d bytes", int64(maxCopyBytes))
	}
	in, out := start, start
	for in < end {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := again(func() (int, error) {
			return unix.CopyFileRange(from, &in, to, &out, int(min(end-in, 64<<20)), 0)
		})
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return copyBytes(from, to, in, end)
		}
		if err != nil {
			return err
		}
		if n == 0 { // shortened meanwhile
			return nil
		}
	}
	return nil
}

// copyBytes is for file systems between which the kernel does not copy.
func copyBytes(from, to int, at, end int64) error {
	buf := make([]byte, 256<<10)
	for at < end {
		n, err := again(func() (int, error) { return unix.Pread(from, buf[:min(end-at, int64(len(buf)))], at) })
		if err != nil || n == 0 {
			return err
		}
		for done := 0; done < n; {
			m, err := again(func() (int, error) { return unix.Pwrite(to, buf[done:n], at+int64(done)) })
			if err != nil {
				return err
			}
			done += m
		}
		at += int64(n)
	}
	return nil
}

func copyLink(from, to int, name string, st *unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), to, name); err != nil {
		return err
	}
	return copyOwnerAndTimes(to, name, st)
}

func copyFIFO(to int, name string, st *unix.Stat_t) error {
	if err := unix.Mknodat(to, name, st.Mode, 0); err != nil {
		return err
	}
	if err := copyOwnerAndTimes(to, name, st); err != nil {
		return err
	}
	return unix.Fchmodat(to, name, st.Mode&0o7777, 0)
}

func copyOwnerAndTimes(dir int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// attributes gives the file or directory to what from has. The owner comes
// first (chown(2) clears set-id bits and capabilities), the times last.
func (c *copier) attributes(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := c.xattrs(from, to); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	tv := []unix.Timeval{unix.NsecToTimeval(st.Atim.Nano()), unix.NsecToTimeval(st.Mtim.Nano())}
	return unix.Futimes(to, tv)
}

func (c *copier) xattrs(from, to int) error {
	n, err := unix.Flistxattr(from, c.names[:])
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimRight(string(c.names[:n]), "\x00"), "\x00") {
		// trusted.overlay.* speaks to the overlay below, not to the volume.
		if name == "" || strings.HasPrefix(name, "trusted.") {
			continue
		}
		n, err := unix.Fgetxattr(from, name, c.value[:])
		if err != nil {
			return fmt.Errorf("cannot read attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(to, name, c.value[:n], 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("cannot set attribute %s: %w", name, err)
		}
	}
	return nil
}
