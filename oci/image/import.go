package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxArchive bounds an archive that comes as a stream, in bytes.
const maxArchive = 256 << 30

// imageNameAnnotation has the full name in archives of containerd and Docker.
const imageNameAnnotation = "io.containerd.image.name"

// ImportOptions says how to take over the images of an archive.
type ImportOptions struct {
	// Name is the repository ("example.org/app") of images for which the archive
	// has a tag only, or the full name of an image without any. Optional: an
	// image without a name is found by its id.
	Name string
}

// found is one image of an archive.
type found struct {
	top    ocispec.Descriptor
	labels labels
}

// Import takes over all images of an OCI image layout, as a directory or a tar
// file, or of a docker archive (docker save). Of an image for several platforms
// it takes the one for this node; of several images none is taken over if
// one cannot be read, apart from those that came before.
func (s *Store) Import(ctx context.Context, file string, opts ImportOptions) ([]Image, error) {
	src, err := openArchive(file)
	if err != nil {
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	return s.importFrom(ctx, src, opts)
}

// ImportStream is Import from a stream with a tar archive. The stream is kept in
// an unnamed file first.
func (s *Store) ImportStream(ctx context.Context, r io.Reader, opts ImportOptions) ([]Image, error) {
	f, err := spool(ctx, s.config.Root, r, maxArchive)
	if err != nil {
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	src, err := openTar(f)
	if err != nil {
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	return s.importFrom(ctx, src, opts)
}

func (s *Store) importFrom(ctx context.Context, src *archiveSource, opts ImportOptions) (out []Image, err error) {
	defer src.Close()
	all, err := src.images(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	for _, f := range all {
		c, err := readContent(ctx, src, f.top)
		if err != nil {
			return out, fmt.Errorf("cannot import image %s: %w", f.top.Digest, err)
		}
		img, err := s.ingest(ctx, newJob(c, src, nil), f.labels)
		if err != nil {
			return out, fmt.Errorf("cannot import image %s: %w", f.top.Digest, err)
		}
		out = append(out, img)
	}
	return out, nil
}

// images lists what an archive holds. Archives of newer Dockers are both a
// layout and a docker archive; the layout has the digests.
func (a *archiveSource) images(ctx context.Context, opts ImportOptions) ([]found, error) {
	raw, err := a.readFile(ocispec.ImageIndexFile, maxManifest)
	if err == nil {
		return layoutImages(raw, opts)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	raw, err = a.readFile("manifest.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("archive is neither an OCI image layout (it has no index.json) nor a docker archive (no manifest.json)")
	}
	if err != nil {
		return nil, err
	}
	return a.dockerImages(ctx, raw, opts)
}

func layoutImages(raw []byte, opts ImportOptions) ([]found, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fmt.Errorf("cannot read index.json: %w", err)
	}
	var out []found
	for _, m := range idx.Manifests {
		if m.Annotations[attestation] != "" || !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		l, err := layoutLabels(m, opts)
		if err != nil {
			return nil, err
		}
		out = append(out, found{m, l})
	}
	if len(out) == 0 {
		return nil, errors.New("index.json lists no image")
	}
	return out, nil
}

// layoutLabels names an image after its annotations. The specification's own
// one may be a tag or a whole name.
func layoutLabels(m ocispec.Descriptor, opts ImportOptions) (labels, error) {
	name := m.Annotations[imageNameAnnotation]
	if ref := m.Annotations[ocispec.AnnotationRefName]; name == "" && ref != "" {
		switch {
		case looksLikeName(ref):
			name = ref
		case opts.Name != "":
			name = opts.Name + ":" + ref
		}
	} else if name == "" {
		name = opts.Name
	}
	if name == "" {
		return labels{}, nil
	}
	named, err := parseName(name)
	if err != nil {
		return labels{}, err
	}
	return labelsFor(named, m.Digest), nil
}

// dockerManifest is an entry of a docker archive's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerImages gives each image of a docker archive a manifest, which these
// archives do not have. It is the same each time, and no registry knows it, so
// that it makes no RepoDigest.
func (a *archiveSource) dockerImages(ctx context.Context, raw []byte, opts ImportOptions) ([]found, error) {
	var list []dockerManifest
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("cannot read manifest.json: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("manifest.json lists no image")
	}
	var out []found
	for _, d := range list {
		top, err := a.dockerManifest(ctx, d)
		if err != nil {
			return nil, err
		}
		names := d.RepoTags
		if len(names) == 0 && opts.Name != "" {
			names = []string{opts.Name}
		}
		var l labels
		for _, name := range names {
			named, err := parseName(name)
			if err != nil {
				return nil, err
			}
			l.tags = append(l.tags, named.String())
		}
		out = append(out, found{top, l})
	}
	return out, nil
}

func (a *archiveSource) dockerManifest(ctx context.Context, d dockerManifest) (ocispec.Descriptor, error) {
	if len(d.Layers) > maxLayers {
		return ocispec.Descriptor{}, fmt.Errorf("image has %d layers, more than %d", len(d.Layers), maxLayers)
	}
	rawConfig, err := a.readFile(d.Config, maxConfig)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    a.put(ocispec.MediaTypeImageConfig, rawConfig),
	}
	for _, name := range d.Layers {
		desc, err := a.dockerLayer(ctx, name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.put(ocispec.MediaTypeImageManifest, raw), nil
}

// dockerLayer finds out the digest of a layer file.
func (a *archiveSource) dockerLayer(ctx context.Context, name string) (ocispec.Descriptor, error) {
	rc, size, err := a.open(name, 0)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer rc.Close()
	d, err := digest.FromReader(contextReader{ctx, rc})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("cannot read %.200q: %w", name, err)
	}
	a.files[d] = name
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size}, nil
}

// put keeps bytes as content.
func (a *archiveSource) put(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	a.bytes[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}
