package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// quotaDisk is a file system that counts projects, or "" where the kernel has none:
// what it said is logged.
func quotaDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, target := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	for _, cmd := range [][]string{
		{"truncate", "-s", "64M", image}, {"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image},
		{"mkdir", target},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd, err, out)
		}
	}
	if out, err := exec.Command("mount", "-o", "loop,prjquota", image, target).CombinedOutput(); err != nil {
		t.Logf("this kernel counts no projects: %s", out)
		return ""
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	})
	return target
}

// TestDiskCount: what a container writes through its overlay is known at once,
// each container's by itself; removed, it is nothing again.
func TestDiskCount(t *testing.T) {
	disk := quotaDisk(t)
	if disk == "" {
		// Then a layer is walked, and nobody thinks otherwise.
		r := &Runtime{Config: Config{RootDir: t.TempDir()}}
		if countsProjects(r.RootDir) {
			t.Error("projects are said to be counted")
		}
		if _, ok := r.DiskCount("c"); ok {
			t.Error("a layer is said to be counted")
		}
		return
	}
	if !countsProjects(disk) {
		t.Fatal("projects are said not to be counted")
	}
	lower := filepath.Join(disk, "lower")
	if err := os.MkdirAll(lower, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lower, "below"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &Runtime{Config: Config{RootDir: disk}, projects: true}
	roots := map[string]string{}
	for _, id := range []string{"a", "b"} {
		rootfs, err := r.Rootfs(Bundle{ID: id, Lowers: []string{lower}})
		if err != nil {
			t.Fatal(err)
		}
		defer rootfs.Close()
		roots[id] = attach(t, rootfs)
	}
	empty := count(t, r, "a")
	if empty.Bytes > 64<<10 || empty.Inodes > 8 || empty.Limit == 0 || empty.Device == "" {
		t.Errorf("an empty layer: %+v", empty)
	}
	write := func(id, name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(roots[id], name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "new", 3<<20)
	f, err := os.OpenFile(filepath.Join(roots["a"], "below"), os.O_WRONLY|os.O_APPEND, 0) // a copy-up goes through work
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("x"))
	f.Close()
	if err := os.Rename(filepath.Join(roots["a"], "new"), filepath.Join(roots["a"], "renamed")); err != nil {
		t.Error(err)
	}
	if got := count(t, r, "a"); got.Bytes < empty.Bytes+4<<20 || got.Bytes > empty.Bytes+4<<20+64<<10 || got.Inodes != empty.Inodes+2 {
		t.Errorf("with 4 MiB in two files: %+v, empty it was %+v", got, empty)
	}
	if got := count(t, r, "b"); got.Bytes != empty.Bytes || got.Inodes != empty.Inodes {
		t.Errorf("the other container: %+v", got)
	}
	for _, name := range []string{"renamed", "below"} {
		if err := os.Remove(filepath.Join(roots["a"], name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := count(t, r, "a"); got.Bytes > empty.Bytes+64<<10 {
		t.Errorf("when the files are gone: %+v", got)
	}
	// A layer from before the file system counted is not counted.
	if err := os.MkdirAll(filepath.Join(r.containerRoot("old"), "upper"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.DiskCount("old"); ok {
		t.Error("a layer that is no project is said to be counted")
	}
}

func count(t *testing.T, r *Runtime, id string) DiskUse {
	t.Helper()
	u, ok := r.DiskCount(id)
	if !ok {
		t.Fatalf("container %s is not counted", id)
	}
	return u
}

// attach puts a detached mount into a directory until the end of the test.
func attach(t *testing.T, detached *os.File) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.MoveMount(int(detached.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
