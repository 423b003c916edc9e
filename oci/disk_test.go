package oci

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// layer is a container's writable layer in a directory of the test.
func layer(t *testing.T) (*Runtime, string) {
	t.Helper()
	r := &Runtime{Config: Config{RootDir: t.TempDir()}}
	upper := filepath.Join(r.containerRoot("c"), "upper")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	return r, upper
}

func use(t *testing.T, r *Runtime) DiskUse {
	t.Helper()
	u, err := r.DiskUse(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestDiskUse: each file once, holes not at all, and nothing outside.
func TestDiskUse(t *testing.T) {
	r, upper := layer(t)
	outside := t.TempDir()
	before := use(t, r)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(outside, "large"), make([]byte, 8<<20), 0o644))
	must(os.Symlink(outside, filepath.Join(upper, "link")))
	must(os.Symlink(".", filepath.Join(upper, "loop")))
	must(os.WriteFile(filepath.Join(upper, "file"), make([]byte, 1<<20), 0o644))
	must(os.Link(filepath.Join(upper, "file"), filepath.Join(upper, "same")))
	must(os.WriteFile(filepath.Join(upper, "sparse"), nil, 0o644))
	must(os.Truncate(filepath.Join(upper, "sparse"), 1<<30))
	must(unix.Mknod(filepath.Join(upper, "whiteout"), unix.S_IFCHR, 0))
	unix.Sync() // delayed allocation: blocks are counted once they are there
	after := use(t, r)
	if got := after.Inodes - before.Inodes; got != 5 {
		t.Errorf("%d files more, wanted 5: two links, file, sparse, whiteout", got)
	}
	if got := after.Bytes - before.Bytes; got < 1<<20 || got > 1<<20+64<<10 {
		t.Errorf("%d bytes more, wanted about 1 MiB", got)
	}
	if after.Limit == 0 || after.InodesTotal < after.InodesFree || after.Device == "" || after.At.IsZero() {
		t.Errorf("%+v", after)
	}
}

// TestDiskUseIsBounded: a tree deeper than descriptors go is walked as deep as
// they go, and a walk ends with its context.
func TestDiskUseIsBounded(t *testing.T) {
	r, upper := layer(t)
	deep := filepath.Join(upper, strings.Repeat("d/", maxDiskDepth+50))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := use(t, r).Inodes; got != maxDiskDepth+1 {
		t.Errorf("%d directories counted, wanted %d", got, maxDiskDepth+1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.DiskUse(ctx, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := r.DiskUse(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a layer: %v", err)
	}
}
