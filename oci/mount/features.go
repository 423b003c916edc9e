package mount

import (
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// LayerMode is how overlay layers are given to the kernel.
type LayerMode string

// The ways, best first.
const (
	// LayersByFD gives each layer as a descriptor.
	LayersByFD LayerMode = "descriptor"
	// LayersByPath gives each layer as a path of its own, /proc/self/fd/N.
	LayersByPath LayerMode = "path"
	// LayersByMount gives all layers in one mount(2), made by a thread in a mount
	// namespace of its own, and takes the result out with open_tree(2).
	LayersByMount LayerMode = "mount"
)

// Features is what this kernel can do. Each is tried, versions are not compared.
type Features struct {
	// Layers is how Overlay gives its layers to the kernel.
	Layers LayerMode
	// Volatile: an overlay can be told not to sync its upper directory.
	Volatile bool
	// CloneDetached: what lies on a detached mount can be cloned (Clone).
	CloneDetached bool
	// DetachedLayers: an overlay takes layers that are on a detached mount, as
	// id-mapped ones are.
	DetachedLayers bool
	// ProcOf: a procfs can be made of a PID namespace in which one is not.
	ProcOf bool
	// SetAttr: attributes of mounts can be changed, also recursively. Without it
	// read-only volumes and cri-box as a whole do not work.
	SetAttr bool
}

// Without names, in the environment, what Detect shall not find, as on an older
// kernel, separated by commas: lowerdir+fd, lowerdir+, volatile, clone-detached,
// pidns.
const Without = "CRI_BOX_WITHOUT"

func switchedOff() []string { return strings.Split(os.Getenv(Without), ",") }

// SwitchedOff says whether Without names what is not for Detect: signal-group.
func SwitchedOff(name string) bool { return slices.Contains(switchedOff(), name) }

// Detect tries this kernel's features, once per process.
var Detect = sync.OnceValue(func() Features {
	f := probe()
	for _, name := range switchedOff() {
		switch name {
		case "lowerdir+fd":
			f.Layers, f.DetachedLayers = LayersByPath, false
		case "lowerdir+":
			f.Layers, f.DetachedLayers = LayersByMount, false
		case "volatile":
			f.Volatile = false
		case "clone-detached":
			f.CloneDetached = false
		case "pidns":
			f.ProcOf = false
		}
	}
	return f
})

func probe() Features {
	f := Features{Layers: layerMode(), Volatile: overlayTakes("volatile"), ProcOf: procOf()}
	dir, err := newContext("tmpfs").mount(0)
	if err != nil {
		return f
	}
	defer dir.Close()
	f.DetachedLayers = f.Layers == LayersByFD && takesDetached(dir)
	f.SetAttr = SetAttr(dir, Attr{RecursiveReadOnly: true, Propagation: Private}) == nil
	if again, err := clone(int(dir.Fd()), "", "tmpfs", true); err == nil {
		f.CloneDetached = true
		again.Close()
	}
	return f
}

// layerMode tries how layers can be given. An overlay file system of the old
// interface keeps any string until it is made, so that a layer that does not
// exist is refused at once only where lowerdir+ is known.
func layerMode() LayerMode {
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return LayersByMount
	}
	defer root.Close()
	byFD := newContext("overlay")
	defer byFD.close()
	byFD.setFD("lowerdir+", int(root.Fd()))
	if byFD.err == nil {
		return LayersByFD
	}
	byPath := newContext("overlay")
	defer byPath.close()
	if byPath.err == nil && unix.FsconfigSetString(byPath.fd, "lowerdir+", "/proc/self/fd/no such layer") == unix.ENOENT {
		return LayersByPath
	}
	return LayersByMount
}

// takesDetached tries an overlay of two directories of a detached mount.
func takesDetached(dir *os.File) bool {
	c := newContext("overlay")
	defer c.close()
	for _, name := range []string{"a", "b"} {
		if err := unix.Mkdirat(int(dir.Fd()), name, 0o755); err != nil {
			return false
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		c.setFD("lowerdir+", fd)
	}
	f, err := c.mount(0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func overlayTakes(flag string) bool {
	c := newContext("overlay")
	defer c.close()
	c.setFlag(flag)
	return c.err == nil
}

// procOf tries the option pidns of procfs (Linux 6.17).
func procOf() bool {
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return false
	}
	defer own.Close()
	c := newContext("proc")
	defer c.close()
	c.setFD("pidns", int(own.Fd()))
	return c.err == nil
}
