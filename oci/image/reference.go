package image

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// references counts who needs each layer: images, and holders such as
// containers and pulls. It is guarded by Store.mu.
type references struct {
	counts  map[digest.Digest]int
	holders map[string][]digest.Digest
	timers  map[string]*time.Timer // of holders that end by themselves
	collect bool                   // whether layers that nobody needs are deleted
	closed  bool
}

func newReferences() *references {
	return &references{
		counts:  map[digest.Digest]int{},
		holders: map[string][]digest.Digest{},
		timers:  map[string]*time.Timer{},
	}
}

func (r *references) add(layers []digest.Digest) {
	for _, id := range layers {
		r.counts[id]++
	}
}

func (r *references) drop(layers []digest.Digest) {
	for _, id := range layers {
		if r.counts[id]--; r.counts[id] <= 0 {
			delete(r.counts, id)
		}
	}
}

// unhold forgets a holder and returns what it held.
func (r *references) unhold(holder string) []digest.Digest {
	if t := r.timers[holder]; t != nil {
		t.Stop()
		delete(r.timers, holder)
	}
	layers := r.holders[holder]
	delete(r.holders, holder)
	r.drop(layers)
	return layers
}

func (r *references) stopTimers() {
	r.closed = true
	for _, t := range r.timers {
		t.Stop()
	}
}

// Hold keeps layers until Release(holder), whatever happens to their images. The
// holder is a container's id. A second Hold replaces the first. Holds are not
// written down: after a start the owner of each container holds its layers
// again, before Collect.
func (s *Store) Hold(holder string, layers []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(holder, layers)
}

func (s *Store) hold(holder string, layers []digest.Digest) {
	s.usage.add(layers)
	old := s.usage.unhold(holder)
	s.usage.holders[holder] = slices.Clone(layers)
	s.purge(s.sweep(old))
}

// HoldImage finds an image as Resolve does and holds its layers in the same
// moment, so that no removal comes in between. ok says whether there is one.
func (s *Store) HoldImage(holder, refOrID string) (img Image, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img, ok = s.Resolve(refOrID); ok {
		s.hold(holder, img.Layers)
	}
	return img, ok
}

// Release ends a hold. It is no error if there is none. Layers that nobody needs
// any more disappear at once; their files are deleted in the background.
func (s *Store) Release(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usage.closed {
		return
	}
	s.purge(s.sweep(s.usage.unhold(holder)))
}

// purge deletes files in the background. Close waits for it.
func (s *Store) purge(purge func() error) {
	s.work.Go(func() {
		if err := purge(); err != nil {
			s.config.Log.Error("cannot delete unused layers", "error", err)
		}
	})
}

// releaseLater ends a hold after Config.KeepUnused.
func (s *Store) releaseLater(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usage.closed {
		return
	}
	s.usage.timers[holder] = time.AfterFunc(s.config.KeepUnused, func() { s.Release(holder) })
}

// Collect deletes the layers that no image and no holder needs, and from now on
// every layer as soon as that is so. Before the first call nothing is deleted: a
// running container's image may have been removed before a restart, and only
// its Hold tells. Call it once, after all Holds of a start.
func (s *Store) Collect() error {
	s.mu.Lock()
	s.usage.collect = true
	purge := s.sweep(s.layers.Layers())
	s.mu.Unlock()
	return purge()
}

// sweep makes those of the layers that nobody needs unreachable. The caller
// holds mu and calls what it returns, which deletes their files, without it.
func (s *Store) sweep(layers []digest.Digest) (purge func() error) {
	var purges []func() error
	var errs []error
	for _, id := range layers {
		if !s.usage.collect || s.usage.counts[id] > 0 {
			continue
		}
		p, err := s.layers.Detach(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		purges = append(purges, p)
	}
	return func() error {
		for _, p := range purges {
			errs = append(errs, p())
		}
		return errors.Join(errs...)
	}
}

// Remove removes an image with all its names; ref is one of them or its id. It
// is no error if there is none. When it returns the image is not listed any more
// and the files of layers that nobody else needs are gone.
func (s *Store) Remove(ref string) error {
	purge, err := s.forget(ref)
	if err != nil {
		return fmt.Errorf("cannot remove image: %w", err)
	}
	return purge()
}

func (s *Store) forget(ref string) (purge func() error, err error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	img, ok := s.Resolve(ref)
	if !ok {
		return func() error { return nil }, nil
	}
	if err := s.db.apply(change{remove: []string{img.ID}}); err != nil {
		return nil, err
	}
	images := s.now.Load().images()
	delete(images, img.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Store(newIndex(images))
	s.usage.drop(img.Layers)
	return s.sweep(img.Layers), nil
}

// commit records an image under new names. An image that is there already keeps
// its manifest and its size.
func (s *Store) commit(img Image, c *content, l labels) (Image, error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	if have, known := s.Resolve(img.ID); known {
		return s.name(have, l, change{})
	}
	return s.name(img, l, change{add: &stored{id: img.ID, manifest: c.rawManifest, config: c.rawConfig}})
}

// relabel gives the image that has one name further ones, if there is such an
// image: a name with a digest, which the registry has just confirmed.
func (s *Store) relabel(name string, l labels) (img Image, ok bool, err error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	if img, ok = s.Resolve(name); !ok {
		return Image{}, false, nil
	}
	img, err = s.name(img, l, change{})
	return img, true, err
}

// name gives an image names, which other images lose, and writes that down
// together with what else changes. The caller holds changes.
func (s *Store) name(img Image, l labels, c change) (Image, error) {
	c.records = map[string]record{}
	images := s.now.Load().images()
	for _, other := range images {
		if other.ID != img.ID && takeNames(&other, l) {
			other.Pinned = s.isPinned(other)
			images[other.ID] = other
			c.records[other.ID] = other.record()
		}
	}
	img.RepoTags = union(img.RepoTags, l.tags)
	img.RepoDigests = union(img.RepoDigests, l.digests)
	img.Pinned = s.isPinned(img)
	images[img.ID] = img
	c.records[img.ID] = img.record()
	if err := s.db.apply(c); err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Store(newIndex(images))
	if c.add != nil {
		s.usage.add(img.Layers)
	}
	return img, nil
}

// takeNames takes names away from an image and says whether it had any.
func takeNames(img *Image, l labels) bool {
	gone := func(names []string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	tags := slices.DeleteFunc(slices.Clone(img.RepoTags), gone(l.tags))
	digests := slices.DeleteFunc(slices.Clone(img.RepoDigests), gone(l.digests))
	changed := len(tags) != len(img.RepoTags) || len(digests) != len(img.RepoDigests)
	img.RepoTags, img.RepoDigests = tags, digests
	return changed
}

// union returns a new sorted list without repetitions.
func union(a, b []string) []string {
	set := map[string]bool{}
	for _, s := range slices.Concat(a, b) {
		set[s] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func (img Image) record() record {
	return record{Manifest: img.Manifest, Tags: img.RepoTags, Digests: img.RepoDigests, Size: img.Size}
}

// load reads all images. One that cannot be used is forgotten, with a word in
// the log; it has to be pulled again.
func (s *Store) load() error {
	var lost []string
	bad := func(id string, err error) {
		s.config.Log.Error("image record cannot be used: the image must be pulled again", "image", id, "error", err)
		lost = append(lost, id)
	}
	all, err := s.db.all(bad)
	if err != nil {
		return err
	}
	images := map[string]Image{}
	for _, st := range all {
		img, err := s.restore(st)
		if err != nil {
			bad(st.id, err)
			continue
		}
		images[img.ID] = img
		s.usage.add(img.Layers)
	}
	if len(lost) > 0 {
		if err := s.db.apply(change{remove: lost}); err != nil {
			return err
		}
	}
	s.now.Store(newIndex(images))
	return nil
}

// restore turns a record into an image if all of it is there and right.
func (s *Store) restore(st stored) (Image, error) {
	if idOf(st.config) != st.id {
		return Image{}, errors.New("configuration does not fit the id")
	}
	if err := st.record.Manifest.Validate(); err != nil {
		return Image{}, fmt.Errorf("digest of manifest: %w", err)
	}
	if got := st.record.Manifest.Algorithm().FromBytes(st.manifest); got != st.record.Manifest {
		return Image{}, fmt.Errorf("manifest has digest %s, not %s", got, st.record.Manifest)
	}
	c := &content{rawManifest: st.manifest, rawConfig: st.config}
	c.manifest.Digest = st.record.Manifest
	var err error
	if c.config, err = parseConfig(st.config); err != nil {
		return Image{}, err
	}
	img, err := s.newImage(c)
	if err != nil {
		return Image{}, err
	}
	img.Size = st.record.Size
	img.RepoTags, img.RepoDigests = st.record.Tags, st.record.Digests
	img.Pinned = s.isPinned(img)
	return img, nil
}

// Raw returns an image's manifest and configuration exactly as they came.
func (s *Store) Raw(id string) (manifest, config []byte, err error) {
	manifest, config, err = s.db.raw(id)
	if err == nil && config == nil {
		err = fmt.Errorf("cannot read image %s: %w", id, ErrNotFound)
	}
	return manifest, config, err
}
