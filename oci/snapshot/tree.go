package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree is a layer that is being written. Every path is resolved by the kernel
// below root; nothing outside can be reached, whatever links the archive made.
// A tree is used by one goroutine.
type tree struct {
	limits  Limits               // with defaults
	entries int                  // made so far, with directories that the archive does not list
	names   int                  // bytes of the names in dirs
	root    int                  // descriptor of the layer's root
	cwd     int                  // the directory last entered; root, or a descriptor of its own
	cwdName string               // its name in the archive
	dirs    map[string]*dirTimes // directories by name; nil for those that the archive does not list
	buf     *[]byte
	info    Info
}

// maxNames bounds the memory that directories' names take, in bytes.
const maxNames = 256 << 20

// spend counts one entry.
func (t *tree) spend() error {
	if t.entries++; t.entries > t.limits.Entries {
		return fmt.Errorf("archive has more than %d entries", t.limits.Entries)
	}
	return nil
}

// remember notes a directory for finish. times is nil for one that the archive
// does not list.
func (t *tree) remember(name string, times *dirTimes) error {
	if _, ok := t.dirs[name]; !ok {
		if t.names += len(name); t.names > maxNames {
			return fmt.Errorf("directories' names take more than %d bytes together", maxNames)
		}
	}
	t.dirs[name] = times
	return nil
}

// dirTimes waits until the end: every entry made in a directory changes its
// modification time.
type dirTimes struct{ atime, mtime time.Time }

func (t *tree) close() {
	t.leave()
	unix.Close(t.root)
	aheadPool.Put(t.buf)
}

func (t *tree) leave() {
	if t.cwd != t.root {
		unix.Close(t.cwd)
	}
	t.cwd, t.cwdName = t.root, "."
}

// openDir opens a directory below dirfd. Links are followed as if dirfd were
// the root directory, as a container's own process would.
func openDir(dirfd int, name string, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dirfd, name, &how)
		// EAGAIN: a rename anywhere on the system raced with ".." (openat2(2)).
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

// enter makes dir the current directory. Directories that are missing are made,
// 0755 and root's, for archives that list files without their directories.
func (t *tree) enter(dir string) error {
	if dir == t.cwdName {
		return nil
	}
	t.leave()
	if dir == "." {
		return nil
	}
	fd, err := openDir(t.root, dir, unix.RESOLVE_IN_ROOT)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		fd, err = t.makePath(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot open directory %.200q: %w", dir, err)
	}
	t.cwd, t.cwdName = fd, dir
	return nil
}

// makePath makes dir and what is missing above it and opens it.
func (t *tree) makePath(dir string) (int, error) {
	parent := t.root
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		fd, err := openDir(t.root, dir[:i], unix.RESOLVE_IN_ROOT)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			fd, err = t.makeImplicit(parent, dir[:i])
		}
		if parent != t.root {
			unix.Close(parent)
		}
		if err != nil {
			return -1, err
		}
		parent = fd
	}
	return parent, nil
}

func (t *tree) makeImplicit(parent int, name string) (int, error) {
	if err := errors.Join(t.spend(), t.remember(name, nil)); err != nil {
		return -1, err
	}
	base := path.Base(name)
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && !isWhiteout(&st) {
		return -1, fmt.Errorf("%.200q is in the way: %w", name, unix.ENOTDIR)
	}
	fd, err := t.mkdir(parent, base)
	if err != nil {
		return -1, err
	}
	if err := setOwnerMode(fd, 0, 0, 0o755); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mkdir makes a directory in place of whatever is there, and opens it. A
// directory stays. One that replaces a whiteout hides what is below it.
func (t *tree) mkdir(parent int, base string) (int, error) {
	opaque := false
	err := unix.Mkdirat(parent, base, 0o755)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return -1, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		opaque = isWhiteout(&st)
		if err := t.remove(parent, base); err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, base, 0o755)
	}
	if err != nil {
		return -1, err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil || !opaque {
		return fd, err
	}
	if err := setOpaque(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// replace runs create and, if something has the name already, removes that and
// runs it again: the archive's last entry of a name wins.
func (t *tree) replace(base string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := t.remove(t.cwd, base); err != nil {
		return err
	}
	return create()
}

// remove deletes what the archive made under a name, and takes it off the sums.
func (t *tree) remove(parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.removeDir(parent, base)
	}
	if st.Nlink == 1 {
		t.info.Inodes--
		t.info.Disk -= st.Blocks * 512
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			t.info.Size -= st.Size
		}
	}
	return unix.Unlinkat(parent, base, 0)
}

// removeDir deletes a directory with everything in it. Its depth is bounded by
// the limit on names.
func (t *tree) removeDir(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.remove(fd, name); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

// finish sets the directories' times, now that nothing is made in them any
// more, and counts them.
func (t *tree) finish() error {
	t.leave()
	for name, times := range t.dirs {
		if err := t.finishDir(name, times); err != nil {
			return fmt.Errorf("cannot finish directory %.200q: %w", name, err)
		}
	}
	return nil
}

func (t *tree) finishDir(name string, times *dirTimes) error {
	dir, base := path.Split(name)
	parent, err := openDir(t.root, path.Clean("./"+dir), unix.RESOLVE_IN_ROOT)
	if err == nil {
		defer unix.Close(parent)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	// Replaced by something else later in the archive.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err != nil {
		return err
	}
	t.info.Inodes++
	t.info.Disk += st.Blocks * 512
	if times == nil {
		return nil
	}
	return setTimes(parent, base, times.atime, times.mtime)
}

// setRoot gives the layer's root directory its attributes.
func (t *tree) setRoot(hdr *tar.Header) error {
	t.dirs["."] = newDirTimes(hdr)
	return setAttributes(t.root, hdr)
}

func newDirTimes(hdr *tar.Header) *dirTimes {
	return &dirTimes{accessTime(hdr), hdr.ModTime}
}

// whiteout marks a name that the layer takes away from those below it, in the
// kernel's form ("whiteouts and opaque directories" in overlayfs.rst). Names
// that this layer itself has are not concerned.
func (t *tree) whiteout(base, hidden string) error {
	if base == whiteoutOpaque {
		t.info.Opaque = t.info.Opaque || t.cwd == t.root
		return setOpaque(t.cwd)
	}
	if strings.HasPrefix(base, whiteoutOther) {
		return nil
	}
	if hidden == "" || hidden == "." || hidden == ".." {
		return errors.New("whiteout of a name that is none")
	}
	err := unix.Mknodat(t.cwd, hidden, unix.S_IFCHR, 0)
	if err == nil {
		t.info.Inodes++
		return nil
	}
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(t.cwd, hidden, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(t.cwd, hidden, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setOpaque(fd)
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("cannot mark directory opaque: %w", err)
	}
	return nil
}
