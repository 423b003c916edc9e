package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// modes are the ways that this kernel knows, the last of which every kernel does.
func modes() []LayerMode {
	all := []LayerMode{LayersByFD, LayersByPath, LayersByMount}
	for i, m := range all {
		if m == Detect().Layers {
			return all[i:]
		}
	}
	return nil
}

func TestDetect(t *testing.T) {
	f := Detect()
	t.Logf("%+v", f)
	if !f.SetAttr || len(modes()) == 0 {
		t.Errorf("got %+v", f)
	}
}

func TestOverlay(t *testing.T) {
	for _, mode := range modes() {
		t.Run(string(mode), func(t *testing.T) {
			long := strings.Repeat("long/", 60) // longer than a parameter of fsconfig(2)
			d := tree(t, long+"top/a=top", long+"top/b=top", "bottom/b=bottom", "bottom/c=bottom", long+"upper/", long+"work/")
			top, upper, work := filepath.Join(d, long, "top"), filepath.Join(d, long, "upper"), filepath.Join(d, long, "work")
			f := ok(t)(overlay(mode, []string{top, filepath.Join(d, "bottom")}, upper, work, OverlayOptions{}))
			for name, want := range map[string]string{"a": "top", "b": "top", "c": "bottom"} {
				if got, err := ReadFileIn(f, name, 100); string(got) != want {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
			if err := write(f, "new"); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(upper, "new")); err != nil {
				t.Errorf("what was written is not in upper: %v", err)
			}
		})
	}
}

func TestVolatileIsMountedAgain(t *testing.T) {
	for _, mode := range modes() {
		d := tree(t, "a/", "u/", "w/")
		for range 2 {
			if err := forgetVolatile(d + "/w"); err != nil {
				t.Fatal(err)
			}
			f := ok(t)(overlay(mode, []string{d + "/a"}, d+"/u", d+"/w", OverlayOptions{Volatile: true}))
			f.Close()
			if _, err := os.Stat(d + "/w/work/incompat/volatile"); err != nil {
				t.Errorf("%s: it was not volatile: %v", mode, err)
			}
		}
		if f, err := overlay(mode, []string{d + "/a"}, d+"/u", d+"/w", OverlayOptions{Volatile: true}); err == nil {
			f.Close()
			t.Errorf("%s: mounted over the mark of a volatile mount", mode)
		}
	}
	d := tree(t, "a/", "u/", "w/")
	for range 2 {
		ok(t)(Overlay([]string{d + "/a"}, d+"/u", d+"/w", OverlayOptions{Volatile: true})).Close()
	}
}

func TestReadOnly(t *testing.T) {
	d := tree(t, "a/f=x", "b/", "u/", "w/")
	for _, mode := range modes() {
		f := ok(t)(overlay(mode, []string{d + "/a"}, d+"/u", d+"/w", OverlayOptions{ReadOnly: true}))
		if err := write(f, "new"); err != unix.EROFS {
			t.Errorf("%s, read-only: %v", mode, err)
		}
		f.Close()
		view := ok(t)(overlay(mode, []string{d + "/a", d + "/b"}, "", "", OverlayOptions{}))
		if err := write(view, "new"); err != unix.EROFS {
			t.Errorf("%s, view: %v", mode, err)
		}
	}
	one := ok(t)(Overlay([]string{d + "/a"}, "", "", OverlayOptions{}))
	if err := write(one, "new"); err != unix.EROFS {
		t.Errorf("view of one layer: %v", err)
	}
	if got, err := ReadFileIn(one, "f", 10); string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLayerLimit(t *testing.T) {
	d := tree(t, "u/", "w/")
	var lowers []string
	for i := range MaxLayers + 1 {
		lowers = append(lowers, fmt.Sprintf("%s/l%d", d, i))
		grow(t, d, fmt.Sprintf("l%d/f%d=", i, i))
	}
	for _, mode := range modes() {
		f := ok(t)(overlay(mode, lowers[:MaxLayers], d+"/u", d+"/w", OverlayOptions{}))
		for _, name := range []string{"f0", "f499"} {
			if _, err := ReadFileIn(f, name, 1); err != nil {
				t.Errorf("%s: %v", mode, err)
			}
		}
		f.Close()
	}
	_, err := Overlay(lowers, d+"/u", d+"/w", OverlayOptions{})
	if err == nil || !strings.Contains(err.Error(), "501 layers, the kernel takes at most 500") {
		t.Errorf("got %v", err)
	}
}

func TestOverlayErrors(t *testing.T) {
	d := tree(t, "a/", "u/", "w/", "file=")
	for _, mode := range modes() {
		if _, err := overlay(mode, []string{d + "/none"}, d+"/u", d+"/w", OverlayOptions{}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), d+"/none") {
			t.Errorf("%s: missing layer: %v", mode, err)
		}
		if _, err := overlay(mode, []string{d + "/a"}, d+"/u", d+"/u", OverlayOptions{}); err == nil {
			t.Errorf("%s: work is upper: no error", mode)
		} else {
			t.Log(err)
		}
	}
	if _, err := Overlay(nil, d+"/u", d+"/w", OverlayOptions{}); err == nil {
		t.Error("no layers: no error")
	}
	if _, err := Overlay([]string{d + "/a"}, d+"/u", "", OverlayOptions{}); err == nil {
		t.Error("no work directory: no error")
	}
}

func TestSpread(t *testing.T) {
	d := t.TempDir()
	for range 2 {
		if err := Spread(d); err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(d, &fs); err != nil {
		t.Fatal(err)
	}
	f := ok(t)(os.Open(d))
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if fs.Type == unix.EXT4_SUPER_MAGIC && (err != nil || flags&topDir == 0) {
		t.Errorf("flags %x, %v", flags, err)
	}
	// procfs has no such flags.
	if err := Spread("/proc"); err != nil {
		t.Error(err)
	}
	if err := Spread(d + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
