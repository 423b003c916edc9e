package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveAll: a tree that is deeper than the daemon may open files is removed, with
// all kinds of what a container leaves.
func TestRemoveAll(t *testing.T) {
	const depth = 400
	dir := filepath.Join(t.TempDir(), "upper")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o755))
	outside := filepath.Join(t.TempDir(), "outside")
	must(os.WriteFile(outside, nil, 0o600))
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	for n := range depth {
		must(unix.Symlinkat(filepath.Dir(outside), at, "link"))
		must(unix.Mkdirat(at, "deep-1", 0)) // the name by which it is moved, and closed
		must(unix.Mkdirat(at, "empty", 0o755))
		if n%100 == 0 {
			for i := range 2000 / (n + 1) { // more than are listed at once
				must(unix.Mknodat(at, "pipe"+strconv.Itoa(i), unix.S_IFIFO|0o600, 0))
			}
		}
		next, err := unix.Openat(at, "deep-1", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(err)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	var limit unix.Rlimit
	must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	few := unix.Rlimit{Cur: 128, Max: limit.Max}
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	must(RemoveAll(dir))
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("outside: %v", err)
	}
	must(RemoveAll(dir)) // which is no longer there
}
