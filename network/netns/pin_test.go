package netns

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func itoa(f *os.File) string { return strconv.Itoa(int(f.Fd())) }

// inOwnMountNamespace runs fn on a thread with its own mount namespace, so that
// whatever it mounts ends with it.
func inOwnMountNamespace(t *testing.T, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	done := make(chan struct{})
	onOwnThread(func() {
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Error(err)
			return
		}
		fn(dir)
		_ = unix.Unmount(dir+"/netns", unix.MNT_DETACH)
	})
	<-done
}

// mountsBelow lists the calling thread's mounts at or below path.
func mountsBelow(t *testing.T, path string) []string {
	t.Helper()
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, line := range strings.Split(string(info), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], path) {
			found = append(found, line)
		}
	}
	return found
}
