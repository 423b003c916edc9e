package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// mountOverlay stacks directories, the top first, in a mount that only the
// returned descriptor knows.
func mountOverlay(t *testing.T, lower []string) *os.Root {
	t.Helper()
	var names []string
	for _, dir := range lower {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// Short names: an option has at most 255 bytes.
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	}
	config, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(config)
	if err := errors.Join(unix.FsconfigSetString(config, "lowerdir", strings.Join(names, ":")), unix.FsconfigCreate(config)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// TestOverlay: the kernel sees what the image's author saw.
func TestOverlay(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", imagetest.New().
		File("/kept", 0o644, []byte("base")).File("/gone", 0o644, nil).File("/changed", 0o600, []byte("base")).
		File("/dir/old", 0o644, nil).File("/opaque/old", 0o644, nil).File("/file", 0o644, nil).File("/became/old", 0o644, nil).
		Layer().
		Whiteout("/gone").File("/changed", 0o640, []byte("top")).File("/dir/new", 0o644, nil).
		File("/opaque/.wh..wh..opq", 0o644, nil).File("/opaque/new", 0o644, nil).
		Whiteout("/became").File("/became/new", 0o644, nil).
		Layer().File("/kept2", 0o644, nil).
		Layer().File("/kept2", 0o644, nil). // the same layer again
		Config(func(*ocispec.ImageConfig) {}).Build())
	root := mountOverlay(t, l.LayerPaths(l.pull(t, "app:1")))
	for name, want := range map[string]bool{
		"kept": true, "gone": false, "dir/old": true, "dir/new": true, "opaque/old": false, "opaque/new": true,
		"became/old": false, "became/new": true, "kept2": true, "file": true,
	} {
		if _, err := root.Stat(name); (err == nil) != want || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	data, err := root.ReadFile("changed")
	info, statErr := root.Stat("changed")
	if err != nil || statErr != nil || string(data) != "top" || info.Mode().Perm() != 0o640 {
		t.Errorf("changed: %q %v %v %v", data, info, err, statErr)
	}
	if names, err := fs.ReadDir(root.FS(), "opaque"); err != nil || len(names) != 1 {
		t.Errorf("opaque: %v %v", names, err)
	}
}

// TestNothingLeft: after pulls, good and bad, and Close there is no goroutine and
// no descriptor more than before.
func TestNothingLeft(t *testing.T) {
	count := func() (goroutines, descriptors int) {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(names)
	}
	goroutines, descriptors := count()
	t.Run("work", func(t *testing.T) {
		l := newLab(t)
		blob := pushBig(l).Manifest.Layers[0].Digest.String()
		l.pull(t, "app:1")
		if err := l.Remove(l.ref("app:1")); err != nil {
			t.Fatal(err)
		}
		if err := l.Collect(); err != nil {
			t.Fatal(err)
		}
		l.reg.Break(imagetest.Fault{Path: blob, Corrupt: true})
		l.pullError(t, "app:1", nil)
		l.pullError(t, "app:2", nil)
		_, _ = l.Pull(t.Context(), "127.0.0.1:1/app", nil, nil)
	})
	waitFor(t, func() bool { g, d := count(); return g <= goroutines && d <= descriptors })
}
