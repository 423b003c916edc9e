package cri_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-box/cri-box/cri"
)

// TestListen: the socket of a daemon before is taken over; a file, a directory and a
// link that have its path stay.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	for range 2 { // the second finds what the first left, as after kill -9
		l, err := cri.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	for name, put := range map[string]func(string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("/nowhere", path) },
	} {
		path := filepath.Join(dir, name)
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := cri.Listen(path); err == nil {
			l.Close()
			t.Errorf("it listens in place of a %s", name)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("the %s is gone: %v", name, err)
		}
	}
}
