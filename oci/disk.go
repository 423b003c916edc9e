package oci

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a container may write is a stranger's data: a walk over it ends somewhere.
// What lies behind these limits is not counted.
const (
	maxDiskEntries = 4 << 20
	maxDiskDepth   = 512 // directories held open at a time
	maxDiskLinks   = 1 << 20
)

// DiskUse is what a container wrote to its own layer, and what the file system
// below has.
type DiskUse struct {
	At   time.Time
	Took time.Duration // the walk
	// Bytes are those on disk, each once; Inodes the files with the layer itself.
	Bytes, Inodes uint64
	// Limit, InodesTotal and InodesFree are the file system's.
	Limit, InodesTotal, InodesFree uint64
	// Device is the file system's, as Linux names it, or "major:minor".
	Device string
}

// DiskUse walks a container's writable layer. That takes as long as there are
// files: not for a call that somebody waits for.
func (r *Runtime) DiskUse(ctx context.Context, id string) (DiskUse, error) {
	u := DiskUse{At: time.Now()}
	root, err := unix.Open(filepath.Join(r.containerRoot(id), "upper"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return u, fmt.Errorf("cannot measure the layer of container %s: %w", id, err)
	}
	w := &diskWalk{ctx: ctx, use: &u, linked: map[uint64]struct{}{}}
	err = errors.Join(fileSystem(root, &u), w.root(root))
	u.Took = time.Since(u.At)
	if err != nil {
		return u, fmt.Errorf("cannot measure the layer of container %s: %w", id, err)
	}
	return u, nil
}

func fileSystem(fd int, u *DiskUse) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	u.Limit, u.InodesTotal, u.InodesFree = fs.Blocks*uint64(fs.Bsize), fs.Files, fs.Ffree
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	u.Device = DeviceName(uint64(unix.Major(uint64(st.Dev))), uint64(unix.Minor(uint64(st.Dev))))
	return nil
}

// A diskWalk adds up one tree. It goes down by descriptor only, for the container
// may turn a directory into a link at any moment.
type diskWalk struct {
	ctx    context.Context
	use    *DiskUse
	linked map[uint64]struct{} // inodes with several names that were counted
}

func (w *diskWalk) root(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	w.add(&st)
	return w.directory(fd, 1)
}

func (w *diskWalk) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && len(w.linked) < maxDiskLinks {
		if _, counted := w.linked[st.Ino]; counted {
			return
		}
		w.linked[st.Ino] = struct{}{}
	}
	w.use.Inodes++
	w.use.Bytes += uint64(st.Blocks) * 512
}

// directory adds what is in the directory fd, which becomes its own.
func (w *diskWalk) directory(fd, depth int) error {
	dir := os.NewFile(uintptr(fd), "layer")
	defer dir.Close()
	for {
		names, err := dir.ReadDir(256)
		for _, e := range names {
			if err := w.entry(int(dir.Fd()), e.Name(), depth); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 { // io.EOF, or removed meanwhile
			return nil
		}
	}
}

func (w *diskWalk) entry(dir int, name string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // gone meanwhile
	}
	if w.add(&st); w.use.Inodes > maxDiskEntries {
		return fmt.Errorf("more than %d files", maxDiskEntries)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth >= maxDiskDepth {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return w.directory(fd, depth+1)
}

// maxDevices is how many names of devices are kept.
const maxDevices = 1024

// devices are the names of block devices, by number.
var devices struct {
	sync.Mutex
	names map[uint64]string
}

// DeviceName is what Linux calls a block device, such as /dev/sda1, or
// "major:minor" for what has no name.
func DeviceName(major, minor uint64) string {
	number := major<<32 | minor
	devices.Lock()
	name, ok := devices.names[number]
	devices.Unlock()
	if ok {
		return name
	}
	name = readDeviceName(major, minor)
	devices.Lock()
	defer devices.Unlock()
	if devices.names == nil || len(devices.names) >= maxDevices {
		devices.names = map[uint64]string{}
	}
	devices.names[number] = name
	return name
}

func readDeviceName(major, minor uint64) string {
	name := fmt.Sprintf("%d:%d", major, minor)
	f, err := os.Open("/sys/dev/block/" + name + "/uevent")
	if err != nil {
		return name
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if dev, ok := strings.CutPrefix(lines.Text(), "DEVNAME="); ok {
			return "/dev/" + dev
		}
	}
	return name
}
