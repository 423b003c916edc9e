package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	maxArchiveEntries = 100_000
	maxArchiveLinks   = 4 // links in links
)

// archive is a set of files by name: a directory, or a tar file with its
// entries' places.
type archive interface {
	// open opens a file from an offset on and says how large it is.
	open(name string, offset int64) (io.ReadCloser, int64, error)
	Close() error
}

// directoryArchive is an image layout as a directory. os.Root keeps its links
// inside.
type directoryArchive struct{ *os.Root }

func (d directoryArchive) open(name string, offset int64) (io.ReadCloser, int64, error) {
	f, err := d.OpenFile(name, readOnly, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := regular(f)
	if err == nil && offset > 0 {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// readOnly does not wait for the other end of a FIFO.
const readOnly = os.O_RDONLY | unix.O_NONBLOCK

func regular(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", f.Name())
	}
	return info, err
}

// tarArchive is a tar file that is read where its entries are.
type tarArchive struct {
	*os.File
	entries map[string]tarEntry
}

type tarEntry struct {
	offset, size int64
	link         string // the entry that has the content, for links
}

func newTarArchive(f *os.File) (*tarArchive, error) {
	t := &tarArchive{f, map[string]tarEntry{}}
	r := tar.NewReader(f)
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if len(t.entries) == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return nil, fmt.Errorf("cannot read archive: it is no tar archive; what is compressed has to be unpacked first (gzip -d): %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read archive: %w", err)
		}
		if len(t.entries) == maxArchiveEntries {
			return nil, fmt.Errorf("archive has more than %d entries", maxArchiveEntries)
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("cannot read archive: %w", err)
		}
		t.add(hdr, offset)
	}
}

// add notes where an entry's content is. docker save links a layer that several
// images have.
func (t *tarArchive) add(hdr *tar.Header, offset int64) {
	name := path.Clean(hdr.Name)
	switch hdr.Typeflag {
	case tar.TypeReg:
		t.entries[name] = tarEntry{offset: offset, size: hdr.Size}
	case tar.TypeSymlink:
		t.entries[name] = tarEntry{link: path.Join(path.Dir(name), hdr.Linkname)}
	case tar.TypeLink:
		t.entries[name] = tarEntry{link: path.Clean(hdr.Linkname)}
	}
}

func (t *tarArchive) open(name string, offset int64) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	for range maxArchiveLinks {
		e, ok := t.entries[name]
		if !ok {
			break
		}
		if e.link == "" {
			offset = min(offset, e.size)
			return io.NopCloser(io.NewSectionReader(t, e.offset+offset, e.size-offset)), e.size, nil
		}
		name = e.link
	}
	return nil, 0, fmt.Errorf("archive has no file %.200q: %w", name, fs.ErrNotExist)
}

// archiveSource is an archive as a source of content by digest: an OCI image
// layout's blobs, and what a docker archive has under other names.
type archiveSource struct {
	archive
	files map[digest.Digest]string // names of blobs that are not below blobs/
	bytes map[digest.Digest][]byte // blobs that were made up
}

func (a *archiveSource) fetch(_ context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if data, ok := a.bytes[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data[min(offset, int64(len(data))):])), nil
	}
	name, ok := a.files[desc.Digest]
	if !ok {
		name = path.Join(ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
	}
	rc, _, err := a.open(name, offset)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: archive has no content %s", ErrNotFound, desc.Digest)
	}
	return rc, err
}

func (a *archiveSource) again() (time.Duration, bool) { return 0, false }

// readFile reads a small file of the archive.
func (a *archiveSource) readFile(name string, limit int64) ([]byte, error) {
	rc, size, err := a.open(name, 0)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d are not read", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(rc, limit))
}

// openArchive opens an image layout or docker archive: a directory or tar file.
func openArchive(file string) (*archiveSource, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(file)
		if err != nil {
			return nil, err
		}
		return newArchiveSource(directoryArchive{root}), nil
	}
	f, err := os.OpenFile(file, readOnly, 0)
	if err != nil {
		return nil, err
	}
	if _, err := regular(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return openTar(f)
}

// openTar takes over f.
func openTar(f *os.File) (*archiveSource, error) {
	t, err := newTarArchive(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newArchiveSource(t), nil
}

func newArchiveSource(a archive) *archiveSource {
	return &archiveSource{a, map[digest.Digest]string{}, map[digest.Digest][]byte{}}
}

// spool keeps a stream in a file without a name below dir: an archive's parts
// are not read in the order in which they come.
func spool(ctx context.Context, dir string, r io.Reader, limit int64) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(contextReader{ctx, r}, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("archive is longer than %d bytes", limit)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// contextReader ends a long copy between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// looksLikeName tells a name from a tag, which has neither sign.
func looksLikeName(s string) bool { return strings.ContainsAny(s, "/:") }
