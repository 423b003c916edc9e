package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func labelOf(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := unix.Lgetxattr(path, labelName, b)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// TestRelabel: all of the volume gets the label and nothing else does: not what a
// link points to, not what is mounted in it. SELinux need not be active: without
// it the attribute is one like others.
func TestRelabel(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	for _, err := range []error{os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "a/b/file"), nil, 0o600),
		os.WriteFile(outside, nil, 0o600), os.Symlink(outside, filepath.Join(dir, "a/link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f := ok(t)(clone(unix.AT_FDCWD, dir, dir, false))
	defer f.Close()
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	if err := Relabel(t.Context(), f, label); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: label, filepath.Join(dir, "a"): label, filepath.Join(dir, "a/b"): label,
		filepath.Join(dir, "a/b/file"): label, filepath.Join(dir, "a/link"): label, outside: ""} {
		if got := labelOf(t, path); got != want {
			t.Errorf("%s has the label %q, want %q", path, got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Relabel(ctx, f, label+"3"); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end it goes on: %v", err)
	}
}

// TestRelabelStaysOnTheMount: another mount in the volume is somebody else's.
func TestRelabelStaysOnTheMount(t *testing.T) {
	outer, inner := ok(t)(Tmpfs(TmpfsOptions{Mode: 0o755})), ok(t)(Tmpfs(TmpfsOptions{Mode: 0o755}))
	defer outer.Close()
	defer inner.Close()
	if err := unix.Mkdirat(int(outer.Fd()), "in", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.MoveMount(int(inner.Fd()), "", int(outer.Fd()), "in", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Skip("this kernel mounts nothing in a detached mount:", err)
	}
	if err := Relabel(t.Context(), outer, "a_label"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"/": 7, "/in": -1} {
		n, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(int(outer.Fd()))+name, labelName, make([]byte, 20))
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%s: a label of %d bytes, want %d", name, n, want)
		}
	}
}
