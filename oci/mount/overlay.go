package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxLayers is how many lower layers the kernel takes (OVL_MAX_STACK).
const MaxLayers = 500

// OverlayOptions says how Overlay mounts.
type OverlayOptions struct {
	// Volatile gives up syncing the upper directory when the mount ends, which
	// takes as long as the container wrote much. Ignored where Features lack it.
	Volatile bool
	// ReadOnly makes the mount read-only. Mount points that are missing can then
	// no longer be made; to make them first, mount writable and use SetAttr.
	ReadOnly bool
	// Users, if set, is a user namespace: ids in the lowers are its own, not the
	// host's. Upper and work must belong to its root. It stays the caller's.
	Users *os.File
	// Label, if set, is the SELinux label of all files in the mount.
	Label string
}

// Overlay mounts the directories lowers, the top one first, below upper. work
// must be on the same file system as upper; what an earlier volatile mount left
// in it is removed. The same upper must not be in two mounts at once. Without
// upper and work the mount is read-only.
func Overlay(lowers []string, upper, work string, o OverlayOptions) (*os.File, error) {
	switch {
	case len(lowers) == 0:
		return nil, errors.New("cannot mount overlay: no layers given")
	case len(lowers) > MaxLayers:
		return nil, fmt.Errorf("cannot mount overlay: %d layers, the kernel takes at most %d", len(lowers), MaxLayers)
	case (upper == "") != (work == ""):
		return nil, errors.New("cannot mount overlay: upper and work directory come together")
	case upper == "" && len(lowers) == 1:
		return readOnlyClone(lowers[0], o.Users)
	}
	if err := forgetVolatile(work); err != nil {
		return nil, err
	}
	o.Volatile = o.Volatile && upper != "" && Detect().Volatile
	mode := Detect().Layers
	if o.Users != nil && !Detect().DetachedLayers {
		mode = LayersByMount
	}
	return overlay(mode, lowers, upper, work, o)
}

func overlay(mode LayerMode, lowers []string, upper, work string, o OverlayOptions) (*os.File, error) {
	if mode == LayersByMount {
		return overlayByMount(lowers, upper, work, o)
	}
	layers, err := openLayers(lowers, upper, work, o.Users)
	if err != nil {
		return nil, err
	}
	defer layers.close()
	c := newContext("overlay")
	give := c.setFD
	if mode == LayersByPath {
		give = func(key string, fd int) { c.set(key, "/proc/self/fd/"+strconv.Itoa(fd)) }
	}
	c.set("source", "overlay")
	// index would refuse a lower layer that is shared between mounts (ESTALE);
	// metacopy would trust extended attributes inside layers.
	c.set("index", "off")
	c.set("metacopy", "off")
	c.label(o.Label)
	for _, fd := range layers.lower {
		give("lowerdir+", fd)
	}
	if layers.upper >= 0 {
		give("upperdir", layers.upper)
		give("workdir", layers.work)
	}
	if o.Volatile {
		c.setFlag("volatile")
	}
	return c.mount(o.attrs())
}

func (o OverlayOptions) attrs() int {
	if o.ReadOnly {
		return unix.MOUNT_ATTR_RDONLY
	}
	return 0
}

// layers are an overlay's directories, opened.
type layers struct {
	lower       []int
	upper, work int
	mapped      []*os.File // id-mapped mounts that the lower ones are on
}

func openLayers(lowers []string, upper, work string, users *os.File) (*layers, error) {
	l := &layers{upper: -1, work: -1}
	if err := l.openLower(lowers, users); err != nil {
		l.close()
		return nil, err
	}
	if upper == "" {
		return l, nil
	}
	var err1, err2 error
	l.upper, err1 = openDir(upper)
	l.work, err2 = openDir(work)
	if err := errors.Join(err1, err2); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *layers) openLower(lowers []string, users *os.File) error {
	open := openDir
	if users != nil {
		m, err := l.mapStack(lowers, users)
		if err != nil {
			return err
		}
		open = m.open
	}
	for _, dir := range lowers {
		fd, err := open(dir)
		if err != nil {
			return err
		}
		l.lower = append(l.lower, fd)
	}
	return nil
}

func (l *layers) close() {
	for _, f := range l.mapped {
		f.Close()
	}
	for _, fd := range append(l.lower, l.upper, l.work) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func openDir(dir string) (int, error) {
	fd, err := again(func() (int, error) {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, fmt.Errorf("cannot open layer %s: %w", dir, err)
	}
	return fd, nil
}

func readOnlyClone(dir string, users *os.File) (*os.File, error) {
	f, err := BindOwn(dir)
	if err != nil {
		return nil, err
	}
	if users != nil {
		if err := MapIDs(f, users); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := SetAttr(f, Attr{ReadOnly: true}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// forgetVolatile removes the mark by which the kernel refuses to mount the
// upper directory of a volatile mount again (overlayfs.rst, "Volatile mount").
// The content of the upper directory may be torn after a power cut only, and a
// power cut ends the container as well.
func forgetVolatile(work string) error {
	if work == "" {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(work, "work", "incompat")); err != nil {
		return fmt.Errorf("cannot remove volatile mark: %w", err)
	}
	return nil
}

// overlayByMount is for kernels without lowerdir+. Only mount(2) takes all
// layers there, and it attaches. So a thread takes a mount namespace of its own,
// attaches there, and clones the mount; the thread and its namespace then end.
func overlayByMount(lowers []string, upper, work string, o OverlayOptions) (f *os.File, err error) {
	onOwnThread(func() { f, err = overlayInNamespace(lowers, upper, work, o) })
	return f, err
}

// onOwnThread runs do on a thread that ends after it, whatever do did to it.
func onOwnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and /proc/self shows its namespaces.
			// While it is held here, do runs on another.
			defer runtime.UnlockOSThread()
			onOwnThread(do)
			return
		}
		do()
	}()
	<-done
}

func overlayInNamespace(lowers []string, upper, work string, o OverlayOptions) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("cannot make mounts private: %w", err)
	}
	// The layers must belong to this namespace: open them here.
	layers, err := openLayersHere(lowers, upper, work, o.Users)
	if err != nil {
		return nil, err
	}
	defer layers.close()
	// Their numbers are their paths: mount data ends at one page.
	if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
		return nil, fmt.Errorf("cannot enter /proc/thread-self/fd: %w", err)
	}
	data := layers.data(o)
	if len(data) >= os.Getpagesize() {
		return nil, fmt.Errorf("cannot mount overlay: %d layers do not fit into one page of mount data", len(lowers))
	}
	var flags uintptr
	if o.ReadOnly {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("overlay", lowers[0], "overlay", flags, data); err != nil {
		return nil, fmt.Errorf("cannot mount overlay of %d layers: %w", len(lowers), err)
	}
	return clone(unix.AT_FDCWD, lowers[0], "overlay", false)
}

func (l *layers) data(o OverlayOptions) string {
	numbers := make([]string, len(l.lower))
	for i, fd := range l.lower {
		numbers[i] = strconv.Itoa(fd)
	}
	data := "index=off,metacopy=off,lowerdir=" + strings.Join(numbers, ":")
	if l.upper >= 0 {
		data += fmt.Sprintf(",upperdir=%d,workdir=%d", l.upper, l.work)
	}
	if o.Volatile {
		data += ",volatile"
	}
	if o.Label != "" { // quoted: its categories have a comma
		data += `,context="` + o.Label + `"`
	}
	return data
}
