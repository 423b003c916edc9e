package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestHostile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	long := strings.Repeat("n/", 300)
	for name, c := range map[string]struct {
		entries []entry
		want    string // part of the error; "" when it must be harmless instead
	}{
		"dotdot":                {[]entry{file("../../evil", "x")}, "path leaves the layer"},
		"dotdot inside":         {[]entry{file("a/../../evil", "x")}, "path leaves the layer"},
		"dotdot after slash":    {[]entry{file("/../evil", "x")}, "path leaves the layer"},
		"absolute":              {[]entry{file(outside+"/evil", "x")}, ""},
		"write through symlink": {[]entry{link(tar.TypeSymlink, "l", outside), file("l/evil", "x")}, "in the way"},
		"relative symlink":      {[]entry{link(tar.TypeSymlink, "l", up+outside[1:]), file("l/evil", "x")}, "in the way"},
		"symlink to own dir":    {[]entry{dir(outside[1:]), link(tar.TypeSymlink, "l", outside), file("l/evil", "x")}, ""},
		"symlink up to own dir": {[]entry{dir(outside[1:]), link(tar.TypeSymlink, "l", up+outside[1:]), file("l/secret", "x")}, ""},
		"symlink replaced file": {[]entry{link(tar.TypeSymlink, "l", outside+"/secret"), file("l", "x")}, ""},
		"symlink then dir":      {[]entry{link(tar.TypeSymlink, "l", outside), {tar.Header{Typeflag: tar.TypeDir, Name: "l/", Mode: 0o777}, ""}}, ""},
		"hard link outside":     {[]entry{link(tar.TypeLink, "h", up+outside[1:]+"/secret")}, "cannot link"},
		"hard link absolute":    {[]entry{link(tar.TypeLink, "h", outside+"/secret")}, "hard link's target"},
		"hard link by symlink":  {[]entry{link(tar.TypeSymlink, "l", outside), link(tar.TypeLink, "h", "l/secret")}, "hard link's target"},
		"hard link to link":     {[]entry{link(tar.TypeSymlink, "l", outside+"/secret"), link(tar.TypeLink, "h", "l"), file("h", "x")}, ""},
		"hard link to root":     {[]entry{link(tar.TypeLink, "h", ".")}, "cannot link"},
		"whiteout of dotdot":    {[]entry{file(".wh...", "")}, "whiteout of a name that is none"},
		"whiteout of dot":       {[]entry{file(".wh..", "")}, "whiteout of a name that is none"},
		"whiteout of nothing":   {[]entry{file(".wh.", "")}, "whiteout of a name that is none"},
		"opaque by symlink":     {[]entry{link(tar.TypeSymlink, "l", outside), file("l/.wh..wh..opq", "")}, "in the way"},
		"whiteout by symlink":   {[]entry{link(tar.TypeSymlink, "l", outside), file("l/.wh.secret", "")}, "in the way"},
		"opaque own dir":        {[]entry{dir(outside[1:]), link(tar.TypeSymlink, "l", outside), file("l/.wh..wh..opq", "")}, ""},
		"whiteout in own dir":   {[]entry{dir(outside[1:]), link(tar.TypeSymlink, "l", outside), file("l/.wh.secret", "")}, ""},
		"root is a file":        {[]entry{file("./.", "x")}, "root is not a directory"},
		"file as directory":     {[]entry{file("f", "x"), file("f/g", "x")}, "in the way"},
		"too deep":              {[]entry{file(long+"x", "")}, "components"},
		"magic link":            {[]entry{link(tar.TypeSymlink, "l", "/proc/self/cwd"), file("l/evil", "")}, "in the way"},
		"loop":                  {[]entry{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/x", "")}, "too many levels"},
		"owner":                 {[]entry{{tar.Header{Typeflag: tar.TypeDir, Name: "d/", Uid: 1<<32 - 1}, ""}}, "out of range"},
		"device number":         {[]entry{{tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1 << 12}, ""}}, "out of range"},
		"unknown type":          {[]entry{{tar.Header{Typeflag: 'Z', Name: "z"}, ""}}, "type 'Z' is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			before := lstat(t, outside, "secret")
			_, _, err := unpackAll(t, s, c.entries...)
			if c.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			names, _ := os.ReadDir(outside)
			if len(names) != 1 || readFile(t, outside, "secret") != "secret" {
				t.Errorf("outside was changed: %v", names)
			}
			if after := lstat(t, outside, "secret"); after.Ctim != before.Ctim || after.Nlink != 1 {
				t.Errorf("outside file was changed: %+v", after)
			}
			if st := lstat(t, outside); st.Mode != unix.S_IFDIR|0o755 {
				t.Errorf("outside directory was changed: %o", st.Mode)
			}
			if xattr(t, outside, "trusted.overlay.opaque") != "" {
				t.Error("outside directory was marked opaque")
			}
			nothingLeft(t, s)
		})
	}
}

// TestSymlinkedParent: what goes through a link stays in the layer, where the
// link leads to as the container sees it.
func TestSymlinkedParent(t *testing.T) {
	s := openStore(t)
	path := mustUnpack(t, s, dir("usr"), dir("usr/lib"), link(tar.TypeSymlink, "lib", "/usr/lib"), file("lib/libc.so", "elf"))
	if readFile(t, path, "usr/lib/libc.so") != "elf" {
		t.Error("not where the link leads")
	}
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limits  Limits
		entries []entry
		want    string
	}{
		"entries":       {Limits{Entries: 2}, []entry{file("a", ""), file("b", ""), file("c", "")}, "more than 2 entries"},
		"implicit":      {Limits{Entries: 5}, []entry{file("a/b/c/d/e/f", "")}, "more than 5 entries"},
		"content":       {Limits{Bytes: 10_000}, []entry{file("a", strings.Repeat("x", 20_000))}, "longer than the limit"},
		"archive":       {Limits{Bytes: 3000}, []entry{file("a", ""), file("b", ""), file("c", ""), file("d", ""), file("e", "")}, "longer than the limit"},
		"depth":         {Limits{Depth: 3}, []entry{file("a/b/c/d", "")}, "more than 3 components"},
		"path":          {Limits{PathLength: 10}, []entry{file("a/long/path", "")}, "longer than 10 bytes"},
		"link":          {Limits{PathLength: 10}, []entry{link(tar.TypeSymlink, "l", "12345678901")}, "longer than 10 bytes"},
		"within limits": {Limits{Entries: 3, Bytes: 4096, Depth: 3, PathLength: 10}, []entry{file("a/b/c", "x")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			data, id := archiveOf(t, c.entries...)
			_, err := s.Unpack(t.Context(), id, bytes.NewReader(data), c.limits)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			nothingLeft(t, s)
		})
	}
}

// sparseArchive has one file of a size, which is a hole but for four bytes at 512 KiB.
func sparseArchive(t *testing.T, size string) []byte {
	t.Helper()
	// GNU sparse 1.0: the content begins with a map.
	sparseMap := "1\n524288\n4\n"
	body := sparseMap + strings.Repeat("\x00", 512-len(sparseMap)) + "data"
	e := entry{tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/s", Mode: 0o644, Size: int64(len(body))}, body}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	hdr := e.Header
	hdr.Format = tar.FormatPAX
	hdr.ModTime = time.Unix(1, 0)
	hdr.PAXRecords = map[string]string{"VENDOR.major": "1", "VENDOR.minor": "0", "VENDOR.rrname": "s", "VENDOR.realsize": size}
	if err := w.WriteHeader(&hdr); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// archive/tar writes no sparse files: put the real keys in, of the same length.
	data := buf.Bytes()
	for from, to := range map[string]string{"VENDOR.major=1": "GNU.sparse.major=1", "VENDOR.minor=0": "GNU.sparse.minor=0",
		"VENDOR.rrname=s": "GNU.sparse.name=s", "VENDOR.realsize=" + size: "GNU.sparse.realsize=" + size} {
		data = replaceRecord(t, data, from, to)
	}
	return data
}

func TestSparse(t *testing.T) {
	data := sparseArchive(t, "1048576")
	s := openStore(t)
	info, err := s.Unpack(t.Context(), digest.FromBytes(data), bytes.NewReader(data), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	path, _ := s.Layer(s.Layers()[0])
	content := readFile(t, path, "s")
	if len(content) != 1<<20 || content[512<<10:512<<10+4] != "data" || strings.Trim(content, "\x00") != "data" {
		t.Errorf("content is wrong, %d bytes", len(content))
	}
	if st := lstat(t, path, "s"); st.Blocks*512 > 64<<10 {
		t.Errorf("holes were filled: %d bytes on disk", st.Blocks*512)
	}
	if info.Size != 1<<20 {
		t.Errorf("size %d", info.Size)
	}
	_, err = openStore(t).Unpack(t.Context(), digest.FromBytes(data), bytes.NewReader(data), Limits{Bytes: 1 << 19})
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a sparse file larger than the limit: %v", err)
	}
}

// TestCancelledHole: a hole takes no bytes of the archive, and much time all the same.
func TestCancelledHole(t *testing.T) {
	data := sparseArchive(t, "107374182400")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := openStore(t).Write(ctx, digest.FromBytes(data), bytes.NewReader(data), Limits{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was written to its end: %v", err)
	}
}

// replaceRecord replaces a PAX record in an archive's first block of records.
func replaceRecord(t *testing.T, data []byte, from, to string) []byte {
	t.Helper()
	record := func(s string) string {
		for n := len(s) + 2; ; n++ {
			if r := strings.Join([]string{itoa(n), s}, " ") + "\n"; len(r) == n {
				return r
			}
		}
	}
	i := bytes.Index(data, []byte(record(from)))
	if i < 0 {
		t.Fatalf("no record %s", from)
	}
	end := 1024 // the records' block ends here, zero-filled
	block := append([]byte(record(to)), data[i+len(record(from)):end]...)
	grow := len(record(to)) - len(record(from))
	block = block[:len(block)-grow]
	out := slices.Concat(data[:i], block, data[end:])
	return fixSize(out, grow)
}

// fixSize changes the size, and with it the checksum, of the first header.
func fixSize(data []byte, grow int) []byte {
	var size int
	for _, c := range data[124:135] {
		size = size*8 + int(c-'0')
	}
	copy(data[124:135], []byte(octal(size+grow, 11)))
	copy(data[148:156], "        ")
	sum := 0
	for _, c := range data[:512] {
		sum += int(c)
	}
	copy(data[148:156], octal(sum, 6)+"\x00 ")
	return data
}

func octal(n, width int) string {
	s := ""
	for ; n > 0; n /= 8 {
		s = string(rune('0'+n%8)) + s
	}
	return strings.Repeat("0", width-len(s)) + s
}

func itoa(n int) string {
	s := ""
	for ; n > 0; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return s
}
