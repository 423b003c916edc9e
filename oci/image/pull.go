package image

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cri-box/cri-box/oci/image/verify"
)

// progressInterval is how often a pull reports how far it is.
const progressInterval = 250 * time.Millisecond

// Progress is how far a pull is.
type Progress struct {
	// Bytes of Total bytes of compressed layers are here. Layers that were here
	// before count at once.
	Bytes, Total int64
	// Done of Layers layers are unpacked.
	Done, Layers int
}

// Pull gets an image from its registry, or one of the mirrors that hosts.toml
// names, and returns its record. auth may be nil. progress may be nil; it is
// called a few times a second while layers come, never twice at once, and not
// after the return.
//
// When ctx ends the download ends, unless another pull from the same registry with
// the same credentials waits for the same layer. What was unpacked is kept a while
// for the next try.
// Errors wrap ErrRegistryUnavailable, ErrSignatureValidationFailed, ErrNotFound,
// ErrAccessDenied, ErrInvalidName or ctx's error where that fits, and contain no
// secret.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, progress func(Progress)) (Image, error) {
	named, err := parseName(ref)
	if err != nil {
		return Image{}, fmt.Errorf("cannot pull image: %w", err)
	}
	p, ended := s.traffic.begin(named.String())
	img, err := s.pull(ctx, p, named, auth, progress)
	ended(err)
	if err != nil {
		return Image{}, cleanError(ctx, named.String(), err, auth)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, p *pulling, named reference.Named, auth *Auth, progress func(Progress)) (Image, error) {
	reg, err := s.openRegistry(ctx, named, auth)
	if err != nil {
		return Image{}, err
	}
	defer reg.close()
	top, err := reg.resolve(ctx)
	if err != nil {
		return Image{}, err
	}
	p.at(stageVerify)
	if err := s.verify(ctx, named, top); err != nil {
		return Image{}, err
	}
	p.at(stageRead)
	names := labelsFor(named, top.Digest)
	if img, ok, err := s.relabel(named.Name()+"@"+top.Digest.String(), names); ok || err != nil {
		return img, err
	}
	c, err := readContent(ctx, reg, top)
	if err != nil {
		return Image{}, err
	}
	job := newJob(c, reg, auth)
	job.at, job.registry = p.at, reference.Domain(named)
	p.job.Store(job)
	stop := job.report(progress)
	defer stop()
	defer s.traffic.fetching(job)()
	return s.ingest(ctx, job, names)
}

// rejectedError is a verifier's no.
type rejectedError struct{ error }

func (e rejectedError) Unwrap() []error { return []error{e.error, ErrSignatureValidationFailed} }

// verify asks the image verifiers, if there are any.
func (s *Store) verify(ctx context.Context, named reference.Named, top ocispec.Descriptor) error {
	dir := s.live.Load().VerifierDir
	if dir == "" {
		return nil
	}
	if err := verify.All(ctx, dir, named.String(), top); err != nil {
		return rejectedError{err}
	}
	return nil
}

// job is the work of getting one image's layers.
type job struct {
	content *content
	src     source
	// registry is where it comes from; "" for an archive.
	registry string
	auth     Auth // the zero value without credentials
	total    int64
	done     atomic.Int64
	layers   []atomic.Pointer[flight] // for each layer, what brings it
	at       func(stage string)
}

func newJob(c *content, src source, auth *Auth) *job {
	j := &job{content: c, src: src, layers: make([]atomic.Pointer[flight], len(c.layers)), at: func(string) {}}
	if auth != nil {
		j.auth = *auth
	}
	for _, l := range c.layers {
		j.total += l.Size
	}
	return j
}

// ingest gets an image's layers and records it.
func (s *Store) ingest(ctx context.Context, j *job, l labels) (Image, error) {
	holder := fmt.Sprintf("pull %d", s.pulls.Add(1))
	s.Hold(holder, j.content.config.RootFS.DiffIDs)
	j.at(stageLayers)
	img, err := s.getAll(ctx, j)
	if err == nil {
		j.at(stageRecord)
		img, err = s.commit(img, j.content, l)
	}
	if err != nil {
		s.releaseLater(holder)
		return Image{}, err
	}
	s.Release(holder)
	return img, nil
}

// getAll gets all layers, several at a time, and returns the image without its
// names.
func (s *Store) getAll(ctx context.Context, j *job) (Image, error) {
	group, ctx := errgroup.WithContext(ctx)
	got := map[digest.Digest]bool{}
	for i, desc := range j.content.layers {
		diffID := j.content.config.RootFS.DiffIDs[i]
		if got[diffID] {
			j.finished(i, desc.Size)
			continue
		}
		got[diffID] = true
		group.Go(func() error { return s.getLayer(ctx, j, i, diffID) })
	}
	if err := group.Wait(); err != nil {
		return Image{}, err
	}
	return s.newImage(j.content)
}

// newImage makes an image's record from its content and its layers.
func (s *Store) newImage(c *content) (Image, error) {
	img := Image{
		ID:       idOf(c.rawConfig),
		Config:   c.config,
		Manifest: c.manifest.Digest,
		Layers:   c.config.RootFS.DiffIDs,
		Size:     int64(len(c.rawConfig) + len(c.rawManifest)),
	}
	img.setUser()
	counted := map[digest.Digest]bool{}
	for _, id := range img.Layers {
		info, ok := s.layers.Info(id)
		if !ok {
			return Image{}, fmt.Errorf("layer %s is not there", id)
		}
		if !counted[id] {
			counted[id] = true
			img.Size += info.Size
		}
	}
	return img, nil
}

// finished counts a layer that is there.
func (j *job) finished(i int, size int64) {
	f := new(flight)
	f.bytes.Store(size)
	f.there.Store(true)
	j.layers[i].Store(f)
	j.done.Add(1)
}

// syncing says since when every layer that is not there waits for the disk; the
// zero time if that is not so.
func (j *job) syncing() (since time.Time) {
	for i := range j.layers {
		f := j.layers[i].Load()
		if f != nil && f.there.Load() {
			continue
		}
		if f == nil || f.synced.Load() == nil {
			return time.Time{}
		}
		if at := *f.synced.Load(); at.After(since) {
			since = at
		}
	}
	return since
}

func (j *job) progress() Progress {
	p := Progress{Total: j.total, Done: int(j.done.Load()), Layers: len(j.layers)}
	for i := range j.layers {
		if f := j.layers[i].Load(); f != nil {
			p.Bytes += f.bytes.Load()
		}
	}
	return p
}

// report calls progress until stop, and once more then.
func (j *job) report(progress func(Progress)) (stop func()) {
	if progress == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				progress(j.progress())
			case <-end:
				progress(j.progress())
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}
