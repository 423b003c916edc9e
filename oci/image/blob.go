package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxFailures is how often in a row a download may break without a byte.
const maxFailures = 4

// resuming reads a blob and opens it again where it broke off.
type resuming struct {
	ctx    context.Context // the download's: a reader has no other way to get it
	src    source
	desc   ocispec.Descriptor
	rc     io.ReadCloser
	offset int64
	failed int // times without progress
}

func (r *resuming) Read(p []byte) (int, error) {
	for {
		n, err := r.try(p)
		r.offset += int64(n)
		if n > 0 {
			r.failed = 0
		}
		if err == nil || err == io.EOF && r.offset >= r.desc.Size {
			return n, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		r.Close()
		if err := r.mayResume(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (r *resuming) try(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	if r.rc == nil {
		rc, err := r.src.fetch(r.ctx, r.desc, r.offset)
		if err != nil {
			return 0, err
		}
		r.rc = rc
	}
	return r.rc.Read(p)
}

// mayResume returns nil, after a pause that grows, if another try makes sense.
func (r *resuming) mayResume(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	pause, again := r.src.again()
	if r.failed++; !again || r.failed > maxFailures || !transient(err) {
		return err
	}
	return wait(r.ctx, time.Duration(r.failed-1)*pause)
}

// transient says whether the network failed, as opposed to an answer we got.
func transient(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode >= 500
	}
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errors.Is(err, ErrNotFound) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || unavailable(err)
}

// Close ends the connection. A later read opens another one.
func (r *resuming) Close() error {
	if r.rc == nil {
		return nil
	}
	err := r.rc.Close()
	r.rc = nil
	return err
}

// verifiedBlob is a blob whose end is an error unless size and digest are right.
type verifiedBlob struct {
	resuming
	hash  hash.Hash
	count func(int)
}

func (b *verifiedBlob) Read(p []byte) (int, error) {
	n, err := b.resuming.Read(p)
	b.hash.Write(p[:n])
	b.count(n)
	if b.offset > b.desc.Size {
		return n, fmt.Errorf("blob %s is longer than the %d bytes it should have", b.desc.Digest, b.desc.Size)
	}
	if err == io.EOF {
		if got := digest.NewDigest(b.desc.Digest.Algorithm(), b.hash); got != b.desc.Digest {
			return n, fmt.Errorf("blob %s has digest %s", b.desc.Digest, got)
		}
	}
	return n, err
}

// maxWindow bounds the memory that a zstd stream may ask for, in bytes. zstd's
// own --long takes as much.
const maxWindow = 128 << 20

// inflate returns the content of a layer, whose first bytes tell whether it is
// gzip, zstd or a plain archive. The caller closes it, and r itself.
func inflate(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// wholeLayer is an inflated layer that ends only once the blob behind it was
// read to its end, and so verified.
type wholeLayer struct {
	plain io.Reader
	blob  io.Reader
}

func (w *wholeLayer) Read(p []byte) (int, error) {
	n, err := w.plain.Read(p)
	if err != io.EOF {
		return n, err
	}
	if _, err := io.Copy(io.Discard, w.blob); err != nil {
		return n, err
	}
	return n, io.EOF
}
