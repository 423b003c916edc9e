package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// entry is a tar header with its content.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func archiveOf(t *testing.T, entries ...entry) ([]byte, digest.Digest) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(1_000_000_000, 0)
		}
		if len(e.PAXRecords) > 0 && e.Typeflag != tar.TypeXGlobalHeader {
			e.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), digest.FromBytes(buf.Bytes())
}

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// unpackAll unpacks entries as one layer and returns its directory.
func unpackAll(t *testing.T, s *Store, entries ...entry) (string, Info, error) {
	t.Helper()
	data, id := archiveOf(t, entries...)
	info, err := s.Unpack(t.Context(), id, bytes.NewReader(data), Limits{})
	path, ok := s.Layer(id)
	if ok != (err == nil) {
		t.Fatalf("layer reachable: %v, error: %v", ok, err)
	}
	return path, info, err
}

func mustUnpack(t *testing.T, s *Store, entries ...entry) string {
	t.Helper()
	path, _, err := unpackAll(t, s, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func lstat(t *testing.T, elem ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(elem...), &st); err != nil {
		t.Fatalf("lstat %s: %v", filepath.Join(elem...), err)
	}
	return st
}

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// nothingLeft checks that a failed unpack left no files behind.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	for _, sub := range []string{incomingDir, trashDir} {
		if names, err := os.ReadDir(filepath.Join(s.dir, sub)); err != nil || len(names) > 0 {
			t.Errorf("%s: %v, %v", sub, names, err)
		}
	}
}

func TestUnpackKinds(t *testing.T) {
	s := openStore(t)
	when := time.Unix(1_234_567_890, 123_000_000)
	owned := entry{tar.Header{Typeflag: tar.TypeReg, Name: "bin/su", Mode: 0o4755, Uid: 7, Gid: 8, Size: 2, ModTime: when,
		PAXRecords: map[string]string{
			"SCHILY.xattr.user.note":                 "hi",
			"SCHILY.xattr.security.capability":       "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.trusted.overlay.redirect":  "/etc",
			"SCHILY.xattr.user.overlay.redirect":     "/etc",
			"SCHILY.xattr.security.selinux":          "x",
			"SCHILY.xattr.trusted.overlay.metacopy":  "",
			"SCHILY.xattr.system.posix_acl_access":   "garbage",
			"SCHILY.xattr.trusted.overlay.protattr":  "x",
			"SCHILY.xattr.trusted.overlay.something": "x",
		}}, "su"}
	path := mustUnpack(t, s,
		entry{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, ModTime: when}, ""},
		entry{tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o1777, Uid: 1, Gid: 2, ModTime: when}, ""},
		owned,
		link(tar.TypeLink, "bin/su2", "bin/su"),
		entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "sh", Linkname: "/bin/su", Uid: 3, Gid: 4, ModTime: when}, ""},
		entry{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: when}, ""},
		entry{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 17}, ""},
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o622}, ""},
		entry{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, ""},
	)

	if st := lstat(t, path); st.Mode != unix.S_IFDIR|0o711 || st.Mtim.Sec != when.Unix() {
		t.Errorf("root: mode %o, mtime %d", st.Mode, st.Mtim.Sec)
	}
	if st := lstat(t, path, "bin"); st.Mode != unix.S_IFDIR|0o1777 || st.Uid != 1 || st.Gid != 2 || st.Mtim.Sec != when.Unix() {
		t.Errorf("bin: %+v", st)
	}
	su := lstat(t, path, "bin/su")
	if su.Mode != unix.S_IFREG|0o4755 || su.Uid != 7 || su.Gid != 8 || su.Mtim.Nano() != when.UnixNano() || su.Nlink != 2 {
		t.Errorf("su: %+v", su)
	}
	if su2 := lstat(t, path, "bin/su2"); su2.Ino != su.Ino {
		t.Error("hard link is another inode")
	}
	sh := lstat(t, path, "sh")
	if target, _ := os.Readlink(filepath.Join(path, "sh")); target != "/bin/su" || sh.Uid != 3 || sh.Gid != 4 || sh.Mtim.Sec != when.Unix() {
		t.Errorf("sh: %q %+v", target, sh)
	}
	if st := lstat(t, path, "null"); st.Mode != unix.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null: %+v", st)
	}
	if st := lstat(t, path, "disk"); st.Mode != unix.S_IFBLK|0o660 || st.Rdev != unix.Mkdev(8, 17) || st.Gid != 6 {
		t.Errorf("disk: %+v", st)
	}
	if st := lstat(t, path, "pipe"); st.Mode != unix.S_IFIFO|0o622 {
		t.Errorf("pipe: %+v", st)
	}
	su1 := filepath.Join(path, "bin/su")
	if xattr(t, su1, "user.note") != "hi" || len(xattr(t, su1, "security.capability")) != 20 {
		t.Error("extended attributes are missing")
	}
	buf := make([]byte, 1024)
	n, err := unix.Llistxattr(su1, buf)
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !slices.Contains([]string{"user.note", "security.capability"}, name) {
			t.Errorf("extended attribute %s was set", name)
		}
	}
}

func TestParentsAreMade(t *testing.T) {
	s := openStore(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	path := mustUnpack(t, s, file("/a/b/c", "x"))
	for _, name := range []string{"a", "a/b"} {
		if st := lstat(t, path, name); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 {
			t.Errorf("%s: mode %o uid %d", name, st.Mode, st.Uid)
		}
	}
	if st := lstat(t, path, "a/b/c"); st.Mode != unix.S_IFREG|0o644 {
		t.Errorf("file: mode %o", st.Mode)
	}
}

func TestLastEntryWins(t *testing.T) {
	s := openStore(t)
	path, info, err := unpackAll(t, s,
		file("f", "old and long"), file("f", "new"),
		file("d", "file"), dir("d"), file("d/x", "x"),
		dir("gone"), file("gone/a/b", "b"), file("gone", "now a file"),
		link(tar.TypeSymlink, "l", "f"), file("l", "not the target"),
		link(tar.TypeSymlink, "s", "d"), dir("s"),
		link(tar.TypeLink, "f", "f"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, path, "f"); got != "new" {
		t.Errorf("f = %q: written through a link", got)
	}
	if readFile(t, path, "d/x") != "x" || readFile(t, path, "gone") != "now a file" || readFile(t, path, "l") != "not the target" {
		t.Error("an earlier entry stayed")
	}
	if st := lstat(t, path, "s"); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Error("directory did not replace the link")
	}
	if want := int64(len("new") + len("x") + len("now a file") + len("not the target")); info.Size != want {
		t.Errorf("size %d, want %d", info.Size, want)
	}
	checkUsage(t, path, info)
}

// checkUsage compares what was counted with a walk.
func checkUsage(t *testing.T, path string, info Info) {
	t.Helper()
	var disk, inodes int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if st := lstat(t, p); !seen[st.Ino] {
			seen[st.Ino] = true
			disk += st.Blocks * 512
			inodes++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if disk != info.Disk || inodes != info.Inodes {
		t.Errorf("counted %d bytes and %d inodes, walked %d and %d", info.Disk, info.Inodes, disk, inodes)
	}
}

func TestUsage(t *testing.T) {
	s := openStore(t)
	path, info, err := unpackAll(t, s, dir("d"), file("d/big", strings.Repeat("x", 3<<20)), file("small", "x"),
		link(tar.TypeLink, "again", "small"), link(tar.TypeSymlink, "sym", strings.Repeat("y", 200)), file(".wh.w", ""))
	if err != nil {
		t.Fatal(err)
	}
	checkUsage(t, path, info)
	if info.Size != 3<<20+1 {
		t.Errorf("size %d", info.Size)
	}
	bytes, inodes := s.Usage()
	if bytes != uint64(info.Disk) || inodes != uint64(info.Inodes) {
		t.Errorf("usage %d %d, layer %+v", bytes, inodes, info)
	}
	if err := s.Remove(s.Layers()[0]); err != nil {
		t.Fatal(err)
	}
	if bytes, inodes := s.Usage(); bytes != 0 || inodes != 0 {
		t.Errorf("usage after removal: %d %d", bytes, inodes)
	}
	nothingLeft(t, s)
}

func TestWhiteouts(t *testing.T) {
	s := openStore(t)
	path := mustUnpack(t, s,
		file(".wh.gone", ""),
		dir("opaque"), file("opaque/.wh..wh..opq", ""), file("opaque/x", ""),
		dir("replaced"), file("replaced/new", ""), file(".wh.replaced", ""),
		file(".wh.later", ""), dir("later"),
		file(".wh.implicit", ""), file("implicit/f", ""),
		file("kept", "kept"), file(".wh.kept", ""),
		file(".wh.file", ""), file("file", "after"),
		file(".wh..wh.plnk", ""),
	)
	if st := lstat(t, path, "gone"); !isWhiteout(&st) {
		t.Errorf("gone: %+v", st)
	}
	for _, name := range []string{"opaque", "replaced", "later", "implicit"} {
		if got := xattr(t, filepath.Join(path, name), "trusted.overlay.opaque"); got != "y" {
			t.Errorf("%s: opaque %q", name, got)
		}
	}
	if readFile(t, path, "kept") != "kept" || readFile(t, path, "file") != "after" {
		t.Error("a whiteout hid its own layer's file")
	}
	names, _ := filepath.Glob(filepath.Join(path, ".wh.*"))
	if len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

func TestOpaqueRoot(t *testing.T) {
	s := openStore(t)
	_, info, err := unpackAll(t, s, file(".wh..wh..opq", ""))
	if err != nil || !info.Opaque {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestWrongDigest(t *testing.T) {
	s := openStore(t)
	data, _ := archiveOf(t, file("a", "x"))
	other := digest.FromString("something else")
	_, err := s.Unpack(t.Context(), other, bytes.NewReader(data), Limits{})
	if err == nil || !strings.Contains(err.Error(), "content has digest") {
		t.Errorf("error %v", err)
	}
	if _, ok := s.Layer(other); ok || len(s.Layers()) > 0 {
		t.Error("layer is reachable")
	}
	nothingLeft(t, s)
	if _, err := s.Unpack(t.Context(), "nonsense", bytes.NewReader(data), Limits{}); err == nil {
		t.Error("took a diffID that is none")
	}
}

// TestTrailingBytes: what stands behind the archive's end is part of the digest.
func TestTrailingBytes(t *testing.T) {
	s := openStore(t)
	data, short := archiveOf(t, file("a", "x"))
	data = append(data, bytes.Repeat([]byte("garbage"), 100_000)...)
	if _, err := s.Unpack(t.Context(), short, bytes.NewReader(data), Limits{}); err == nil {
		t.Error("bytes behind the end were not hashed")
	}
	if _, err := s.Unpack(t.Context(), digest.FromBytes(data), bytes.NewReader(data), Limits{}); err != nil {
		t.Error(err)
	}
}

func TestReadError(t *testing.T) {
	s := openStore(t)
	data, id := archiveOf(t, file("a", strings.Repeat("x", 1<<20)))
	broken := errors.New("network is down")
	r := io.MultiReader(bytes.NewReader(data[:600<<10]), &failing{broken})
	if _, err := s.Unpack(t.Context(), id, r, Limits{}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	nothingLeft(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Unpack(ctx, id, bytes.NewReader(data), Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	nothingLeft(t, s)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestSameLayerTwice(t *testing.T) {
	s := openStore(t)
	data, id := archiveOf(t, file("a", "x"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Unpack(t.Context(), id, bytes.NewReader(data), Limits{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.Layers(); len(got) != 1 || got[0] != id {
		t.Errorf("layers %v", got)
	}
	nothingLeft(t, s)
	if _, err := s.Unpack(t.Context(), id, &failing{errors.New("read")}, Limits{}); err != nil {
		t.Errorf("a layer that is there was read again: %v", err)
	}
}

// TestReopen: after a crash only whole layers are there; where a record is there and
// wrong, the layer is set aside, for a container may run from it.
func TestReopen(t *testing.T) {
	s := openStore(t)
	whole, wholeID := archiveOf(t, file("a", "whole"))
	torn, tornID := archiveOf(t, file("a", "torn"))
	none, noneID := archiveOf(t, file("a", "none"))
	moved, movedID := archiveOf(t, file("a", "moved"))
	for id, data := range map[digest.Digest][]byte{wholeID: whole, tornID: torn, noneID: none, movedID: moved} {
		if _, err := s.Unpack(t.Context(), id, bytes.NewReader(data), Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	wantBytes, wantInodes := uint64(0), uint64(0)
	if info, ok := s.Info(wholeID); ok {
		wantBytes, wantInodes = uint64(info.Disk), uint64(info.Inodes)
	}
	if err := os.Truncate(s.path(tornID, recordFile), 10); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path(noneID, recordFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path(movedID), s.path(digest.FromString("other"))); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{incomingDir, trashDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub, "123/fs/left"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := again.Layers(); len(got) != 1 || got[0] != wholeID {
		t.Errorf("layers %v, want %s", got, wholeID)
	}
	if b, i := again.Usage(); b != wantBytes || i != wantInodes {
		t.Errorf("usage %d %d, want %d %d", b, i, wantBytes, wantInodes)
	}
	names, _ := os.ReadDir(filepath.Join(s.dir, layersDir))
	if len(names) != 2 {
		t.Errorf("directories %v", names)
	}
	for _, name := range []string{dirName(tornID), dirName(digest.FromString("other"))} {
		if why, err := os.ReadFile(filepath.Join(s.dir, layersDir, quarantineDir, name, whyFile)); err != nil || len(why) == 0 {
			t.Errorf("why %s is in quarantine: %q, %v", name, why, err)
		}
	}
	nothingLeft(t, again)
}

// TestDirectoryTimes: a directory has the archive's time although files were
// made in it afterwards.
func TestDirectoryTimes(t *testing.T) {
	s := openStore(t)
	d := dir("d")
	d.ModTime = time.Unix(1_111_111_111, 0)
	path := mustUnpack(t, s, d, file("d/a", "x"), dir("d/e"), file("d/e/b", "x"))
	if st := lstat(t, path, "d"); st.Mtim.Sec != 1_111_111_111 {
		t.Errorf("mtime %d", st.Mtim.Sec)
	}
}
