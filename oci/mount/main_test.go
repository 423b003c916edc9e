package mount

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain checks what holds for every test: the mounts stay as they are, and no
// descriptor is left open. The tests run in a mount namespace of their own, so
// that others may mount meanwhile, with shared mounts as a host has them.
func TestMain(m *testing.M) {
	const inside = "MOUNT_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		os.Exit(inOwnNamespace(inside))
	}
	// What others pin and mount there would go here as well, with its file or directory.
	if err := unix.Unmount("/run/netns", unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		panic(err)
	}
	leave(os.TempDir())
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		panic(err)
	}
	unix.Umask(0o077) // nothing may depend on it
	before, fds := mounts(), descriptors()
	code := m.Run()
	if after := mounts(); after != before {
		fmt.Printf("mounts changed from\n%s\nto\n%s\n", before, after)
		code = 1
	}
	if left := descriptors(); left > fds+1 { // the poller's
		fmt.Printf("%d descriptors are open, %d were\n", left, fds)
		code = 1
	}
	os.Exit(code)
}

// inOwnNamespace runs this program again and returns its exit code.
func inOwnNamespace(mark string) int {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

// leave detaches what is mounted below a directory.
func leave(dir string) {
	for line := range strings.Lines(mounts()) {
		if target := strings.Fields(line)[4]; strings.HasPrefix(target, dir+"/") {
			// With one goes what is mounted below it.
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
				panic(err)
			}
		}
	}
}

func mounts() string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	return string(data)
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// ok returns f, closed when the test ends, with the mounts unchanged.
func ok(t testing.TB) func(*os.File, error) *os.File {
	t.Helper()
	before := mounts()
	return func(f *os.File, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if mounts() != before {
			t.Error("the mounts changed")
		}
		return f
	}
}

// tree makes files below a new directory: "dir/", "file=content", "link->target".
func tree(t testing.TB, entries ...string) string {
	t.Helper()
	dir := t.TempDir()
	grow(t, dir, entries...)
	return dir
}

func grow(t testing.TB, dir string, entries ...string) {
	t.Helper()
	for _, e := range entries {
		if err := plant(dir, e); err != nil {
			t.Fatal(err)
		}
	}
}

func plant(dir, entry string) error {
	if name, target, ok := strings.Cut(entry, "->"); ok {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return err
		}
		return os.Symlink(target, filepath.Join(dir, name))
	}
	if name, content, ok := strings.Cut(entry, "="); ok {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)
	}
	return os.MkdirAll(filepath.Join(dir, entry), 0o755)
}

// write makes a file in a mount; it is not resolved safely.
func write(f *os.File, name string) error {
	fd, err := unix.Openat(int(f.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func stat(t testing.TB, f *os.File, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return st
}
