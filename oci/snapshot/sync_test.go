package snapshot

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fragile returns a directory on a file system whose disk has no room for what is
// written to it, until the returned function makes some.
func fragile(t *testing.T) (dir string, mend func()) {
	t.Helper()
	disk, dir := t.TempDir(), t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", disk)
	gone := func(dir string) { run("umount", "--lazy", dir) } // somebody on this machine may look into it right now
	t.Cleanup(func() { gone(disk) })
	image := filepath.Join(disk, "image")
	run("truncate", "-s", "64M", image)
	run("mkfs.ext4", "-q", "-O", "^has_journal", image)
	device := run("losetup", "--find", "--show", image)
	t.Cleanup(func() { run("losetup", "--detach", device) })
	run("mount", "-o", "errors=continue", device, dir)
	t.Cleanup(func() { gone(dir) })
	return dir, func() { run("mount", "-o", "remount,size=128M", disk) }
}

// TestFailedWriteback: the kernel tells of data that it could not write once, and to
// whoever syncs first. A layer that was written by then is not whole.
func TestFailedWriteback(t *testing.T) {
	dir, mend := fragile(t)
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	data, id := archiveOf(t, file("big", strings.Repeat("not zero", 4<<20)))
	lost, err := s.Write(t.Context(), id, strings.NewReader(string(data)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	small, smallID := archiveOf(t, file("small", "x"))
	if _, err := s.Unpack(t.Context(), smallID, strings.NewReader(string(small)), Limits{}); err == nil {
		t.Fatal("the disk has room")
	}
	mend()
	if _, err := lost.Commit(t.Context()); err == nil {
		t.Error("a layer whose data was lost is kept")
	}
	if _, err := s.Unpack(t.Context(), id, strings.NewReader(string(data)), Limits{}); err != nil {
		t.Errorf("what is written afterwards is refused: %v", err)
	}
}
