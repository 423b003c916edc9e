package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Limits bound what one layer may take. A zero field stands for its default.
type Limits struct {
	// Entries is the number of entries of the archive. Default 2,000,000.
	Entries int
	// Bytes is the length of the archive, and the sum of the files' sizes
	// (which is larger when files are sparse). Default 128 GiB.
	Bytes int64
	// Depth is the number of components of a path. Default 256.
	Depth int
	// PathLength is the length of a path or of a link's target in bytes.
	// Default and at most 4095, the kernel's limit.
	PathLength int
}

const maxPath = unix.PathMax - 1

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 128 << 30
	}
	if l.Depth == 0 {
		l.Depth = 256
	}
	if l.PathLength == 0 || l.PathLength > maxPath {
		l.PathLength = maxPath
	}
	return l
}

// unpack makes dir and fills it from the archive. Reading and hashing run beside
// writing.
func unpack(ctx context.Context, dir string, diffID digest.Digest, r io.Reader, limits Limits) (Info, error) {
	limits = limits.withDefaults()
	t, err := newTree(dir, limits)
	if err != nil {
		return Info{}, err
	}
	defer t.close()

	sum := &hashReader{r: r, h: diffID.Algorithm().Hash(), left: limits.Bytes}
	ahead := NewAhead(sum)
	defer ahead.Close()
	if err := unpackEntries(ctx, t, tar.NewReader(ahead)); err != nil {
		return Info{}, err
	}
	// What follows the archive's end mark belongs to the digest too.
	if _, err := io.Copy(io.Discard, ahead); err != nil {
		return Info{}, err
	}
	ahead.Close()
	if got := digest.NewDigest(diffID.Algorithm(), sum.h); got != diffID {
		return Info{}, fmt.Errorf("content has digest %s", got)
	}
	if err := t.finish(); err != nil {
		return Info{}, err
	}
	return t.info, nil
}

// errTooLong is returned for an archive that is longer than its limit.
var errTooLong = errors.New("archive is longer than the limit")

// hashReader hashes what is read and ends with an error when it is too much.
type hashReader struct {
	r    io.Reader
	h    hash.Hash
	left int64
}

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	if h.left -= int64(n); h.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// contextReader ends with ctx also where the reader behind has nothing to wait for: in
// a hole.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(p)
}

func unpackEntries(ctx context.Context, t *tree, tr *tar.Reader) error {
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read archive: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := unpackEntry(t, hdr, contextReader{ctx, tr}); err != nil {
			return fmt.Errorf("entry %.200q: %w", hdr.Name, err)
		}
	}
}

// entryName turns an archive's name into a path below the layer's root, "." for
// the root itself.
func entryName(name string, limits Limits) (string, error) {
	if len(name) > limits.PathLength {
		return "", fmt.Errorf("path is longer than %d bytes", limits.PathLength)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errors.New("path leaves the layer")
	}
	if strings.Count(clean, "/") >= limits.Depth {
		return "", fmt.Errorf("path has more than %d components", limits.Depth)
	}
	return clean, nil
}

// maxID is the largest uid and gid; the one above means "unchanged" to chown(2).
const maxID = 1<<32 - 2

func (t *tree) check(hdr *tar.Header) error {
	if err := t.spend(); err != nil {
		return err
	}
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	if len(hdr.Linkname) > t.limits.PathLength {
		return fmt.Errorf("link target is longer than %d bytes", t.limits.PathLength)
	}
	if hdr.Size < 0 || hdr.Size > t.limits.Bytes-t.info.Size {
		return fmt.Errorf("files are larger than %d bytes together", t.limits.Bytes)
	}
	return nil
}

// Names that begin so are not files but instructions of the image format
// ("Whiteouts" in the OCI image specification's layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutOther  = ".wh..wh." // what AUFS kept for itself
)

func unpackEntry(t *tree, hdr *tar.Header, content io.Reader) error {
	name, err := entryName(hdr.Name, t.limits)
	if err != nil {
		return err
	}
	if err := t.check(hdr); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return errors.New("the layer's root is not a directory")
		}
		return t.setRoot(hdr)
	}
	dir, base := path.Split(name)
	if err := t.enter(path.Clean(dir)); err != nil {
		return err
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return t.whiteout(base, hidden)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return t.file(base, hdr, content)
	case tar.TypeDir:
		return t.directory(name, base, hdr)
	case tar.TypeSymlink:
		return t.symlink(base, hdr)
	case tar.TypeLink:
		return t.hardLink(name, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return t.node(base, hdr)
	}
	return fmt.Errorf("type %q is not known", hdr.Typeflag)
}

// isSparse says whether archive/tar fills holes of this entry with zeros.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// newTree makes the directory dir, mode 0755, and opens it.
func newTree(dir string, limits Limits) (*tree, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := openDir(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return nil, err
	}
	t := &tree{limits: limits, root: root, cwd: root, cwdName: ".", dirs: map[string]*dirTimes{".": nil}}
	t.buf = aheadPool.Get().(*[]byte)
	if err := setOwnerMode(root, 0, 0, 0o755); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}
