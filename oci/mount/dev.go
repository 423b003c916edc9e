package mount

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DevOptions says what a container's /dev is like.
type DevOptions struct {
	// UID and GID own everything in it whose owner is not given: the container's
	// root, as the host counts.
	UID, GID int
	// Label, if set, is the SELinux label of everything in it.
	Label string
}

// devSize is what fits into a container's /dev, as the spec has it (65536k) and
// other runtimes do: there are programs that write a file there.
const devSize = 64 << 20

// defaultDevices are what every container has, config-linux.md "Default Devices".
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// devLinks are the symbolic links in /dev, runtime-linux.md "Dev symbolic links".
var devLinks = [][2]string{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
	{"ptmx", "pts/ptmx"},
}

// Dev returns a container's /dev: a tmpfs with the default devices, the given
// ones (a given one replaces the default of the same path), the usual symbolic
// links, and the directories pts, shm and mqueue to mount on. Every path must
// be below /dev; MakeNode makes others.
func Dev(devices []specs.LinuxDevice, o DevOptions) (*os.File, error) {
	dev, err := Tmpfs(TmpfsOptions{Size: devSize, Mode: 0o755, UID: o.UID, GID: o.GID, Attr: Attr{NoSUID: true}, Label: o.Label})
	if err != nil {
		return nil, fmt.Errorf("cannot make /dev: %w", err)
	}
	if err := populateDev(dev, devices, o); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// NullFile returns /dev/null, to cover a file that a container shall not see: on a
// tmpfs of its own, so that nobody can swap it for something else (CVE-2025-31133).
func NullFile() (*os.File, error) {
	dir, err := Tmpfs(TmpfsOptions{Size: 4096, Mode: 0o755, Attr: Attr{NoSUID: true}})
	if err != nil {
		return nil, fmt.Errorf("cannot make null device: %w", err)
	}
	if err := MakeNode(dir, specs.LinuxDevice{Path: "/null", Type: "c", Major: 1, Minor: 3}, DevOptions{}); err != nil {
		dir.Close()
		return nil, err
	}
	return CloneBelow(dir, "null")
}

func populateDev(dev *os.File, devices []specs.LinuxDevice, o DevOptions) error {
	given := map[string]bool{}
	for _, d := range devices {
		given[path.Clean(d.Path)] = true
	}
	for _, d := range defaultDevices {
		if !given[d.Path] {
			devices = append(devices[:len(devices):len(devices)], d)
		}
	}
	for _, d := range devices {
		below, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
		if !ok {
			return fmt.Errorf("cannot make device %s: not below /dev", d.Path)
		}
		d.Path = below
		if err := MakeNode(dev, d, o); err != nil {
			return err
		}
	}
	for _, l := range devLinks {
		if err := symlinkIn(dev, l[1], l[0], o); err != nil {
			return err
		}
	}
	for _, name := range []string{"pts", "shm", "mqueue"} {
		if err := MkdirIn(dev, name, 0o755, o.UID, o.GID); err != nil {
			return err
		}
	}
	return nil
}

func symlinkIn(dev *os.File, target, name string, o DevOptions) error {
	if err := unix.Symlinkat(target, int(dev.Fd()), name); err != nil {
		return fmt.Errorf("cannot make symbolic link /dev/%s: %w", name, err)
	}
	if o.UID == 0 && o.GID == 0 {
		return nil
	}
	if err := unix.Fchownat(int(dev.Fd()), name, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot change owner of /dev/%s: %w", name, err)
	}
	return nil
}

// MakeNode makes the device node d in the detached root, at d.Path below it.
// Mode is 0666 and the owner that of o unless d says otherwise. Nothing may
// exist there yet.
func MakeNode(root *os.File, d specs.LinuxDevice, o DevOptions) error {
	defer runtime.KeepAlive(root)
	kind, err := nodeKind(d)
	if err != nil {
		return err
	}
	dir, base := path.Split(path.Clean("/" + d.Path))
	if base == "" {
		return fmt.Errorf("cannot make device %q: no name", d.Path)
	}
	w, err := walkIn(root, dir, walkOptions{missing: makeDirs(0o755, o.UID, o.GID)})
	if err != nil {
		return fmt.Errorf("cannot make device %s: %w", d.Path, err)
	}
	defer w.close()
	if err := mknod(w.fd(), base, kind, d, o); err != nil {
		return fmt.Errorf("cannot make device %s (%s %d:%d): %w", d.Path, d.Type, d.Major, d.Minor, err)
	}
	return nil
}

func nodeKind(d specs.LinuxDevice) (uint32, error) {
	switch d.Type {
	case "c", "u":
		return unix.S_IFCHR, nil
	case "b":
		return unix.S_IFBLK, nil
	case "p":
		return unix.S_IFIFO, nil
	}
	return 0, fmt.Errorf("cannot make device %s: type %q is not one of c, u, b, p", d.Path, d.Type)
}

func mknod(dir int, name string, kind uint32, d specs.LinuxDevice, o DevOptions) error {
	mode, uid, gid := uint32(0o666), o.UID, o.GID
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if err := unix.Mknodat(dir, name, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
		return err
	}
	// The owner first: chown(2) clears bits of the mode, and mknod(2) took the
	// umask off it.
	if uid != 0 || gid != 0 {
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return unix.Fchmodat(dir, name, mode, 0)
}
