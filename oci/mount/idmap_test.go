package mount

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// users makes a user namespace that maps 0 to 65535 to the host's from 100000 on.
func users(t *testing.T) *os.File {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	ids := []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	f := ok(t)(os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)))
	t.Cleanup(func() { f.Close() })
	return f
}

// make makes a file with that owner, and its directories.
func makeFile(t *testing.T, path string, id int) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(path), 0o644), os.Chown(path, id, id)); err != nil {
		t.Fatal(err)
	}
}

func ownerIn(t *testing.T, root *os.File, name string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstatat(int(root.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(name, err)
	}
	return fmt.Sprint(st.Uid, ":", st.Gid)
}

func TestMapIDs(t *testing.T) {
	dir, u := t.TempDir(), users(t)
	makeFile(t, dir+"/root", 0)
	makeFile(t, dir+"/user", 1000)
	f := ok(t)(BindOwn(dir))
	defer f.Close()
	if err := MapIDs(f, u); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"root": "100000:100000", "user": "101000:101000"} {
		if got := ownerIn(t, f, name); got != want {
			t.Errorf("%s is %s's, want %s", name, got, want)
		}
	}
	if err := MapIDs(f, u); err == nil || !strings.Contains(err.Error(), "id-mapped mount already") {
		t.Errorf("mapped twice: %v", err)
	}
	sys := ok(t)(BindOwn("/sys/kernel"))
	defer sys.Close()
	if err := MapIDs(sys, u); !errors.Is(err, ErrNoIDMap) {
		t.Errorf("sysfs: %v", err)
	}
}

// TestOverlayMapsLayers: in every way in which layers can be given, their files are
// the namespace's root's, and so is what the container writes.
func TestOverlayMapsLayers(t *testing.T) {
	u := users(t)
	for _, mode := range []LayerMode{LayersByFD, LayersByMount} {
		if mode == LayersByFD && !Detect().DetachedLayers {
			continue // Linux 6.14 and before
		}
		t.Run(string(mode), func(t *testing.T) {
			d := t.TempDir()
			makeFile(t, d+"/layers/a/fs/of-a", 0)
			makeFile(t, d+"/layers/b/fs/of-b", 33)
			for _, dir := range []string{d + "/upper", d + "/work"} {
				if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 100000, 100000)); err != nil {
					t.Fatal(err)
				}
			}
			f := ok(t)(overlay(mode, []string{d + "/layers/a/fs", d + "/layers/b/fs"}, d+"/upper", d+"/work", OverlayOptions{Users: u}))
			defer f.Close()
			for name, want := range map[string]string{".": "100000:100000", "of-a": "100000:100000", "of-b": "100033:100033"} {
				if got := ownerIn(t, f, name); got != want {
					t.Errorf("%s is %s's, want %s", name, got, want)
				}
			}
			if err := unix.Fchmodat(int(f.Fd()), "of-b", 0o600, 0); err != nil { // which copies it up
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(d+"/upper/of-b", &st); err != nil || st.Uid != 100033 || st.Gid != 100033 {
				t.Errorf("copied up it is %d:%d's on disk, %v", st.Uid, st.Gid, err)
			}
		})
	}
}

// TestOneCloneForAStack: however many layers there are, one mount is mapped; but a
// layer on a mount of its own is itself, not what that mount covers.
func TestOneCloneForAStack(t *testing.T) {
	u, d := users(t), t.TempDir()
	var lowers []string
	for i := range 50 {
		lowers = append(lowers, fmt.Sprintf("%s/layers/%d/fs", d, i))
		makeFile(t, lowers[i]+"/file", 0)
	}
	l, err := openLayers(lowers, "", "", u)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.mapped) != 1 || len(l.lower) != 50 {
		t.Errorf("%d mounts for %d layers", len(l.mapped), len(l.lower))
	}
	l.close()
	other := d + "/other" // on the same file system: Linux 6.1 maps no ids of a tmpfs
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	onOwnThread(func() { err = coveredLayer(lowers, other, u) })
	if err != nil {
		t.Error(err)
	}
}

// coveredLayer spoils the calling thread.
func coveredLayer(lowers []string, other string, u *os.File) error {
	if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(other, lowers[7], "", unix.MS_BIND, "")); err != nil {
		return err
	}
	l, err := openLayers(lowers, "", "", u)
	if err != nil {
		return err
	}
	defer l.close()
	if len(l.mapped) != 2 {
		return fmt.Errorf("%d mounts, want 2", len(l.mapped))
	}
	if err := unix.Faccessat(l.lower[7], "file", unix.F_OK, 0); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the layer is what its mount covers: %w", err)
	}
	return nil
}

func TestCommonDir(t *testing.T) {
	for want, dirs := range map[string][]string{"/a": {"/a/b/fs", "/a/c/fs"}, "/a/b": {"/a/b"}, "/": {"/a", "/b"}, "/l": {"/l/1", "/l/11", "/l/1/2"}, "/x/y": {"/x/y", "/x/y/z"}} {
		if got := commonDir(dirs); got != want {
			t.Errorf("%v: %s, want %s", dirs, got, want)
		}
	}
}
