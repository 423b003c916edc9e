package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemoveTree(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	dir := filepath.Join(t.TempDir(), "layer")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(outside, "kept"), 0o755))
	check(os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	for i := range 3*removeBatch + 1 {
		check(os.WriteFile(filepath.Join(dir, "a/b", fmt.Sprint(i)), []byte("x"), 0o400))
	}
	check(os.Symlink(outside, filepath.Join(dir, "a/b/c/out")))
	check(unix.Mkfifo(filepath.Join(dir, "a/pipe"), 0o600))
	check(os.Mkdir(filepath.Join(dir, "closed"), 0))
	check(removeTree(dir))
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Errorf("what a link led to is gone: %v", err)
	}
	check(removeTree(dir)) // nothing to do
}
