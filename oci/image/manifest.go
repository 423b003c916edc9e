package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxManifest = 4 << 20 // bytes of a manifest or index
	maxConfig   = 8 << 20 // bytes of a configuration
	maxLayers   = 500     // overlay's limit for lower directories
	maxIndexes  = 4       // indexes in indexes
)

// document is a manifest or an index: which of them is found out by looking, and
// one that could be read as both is refused (CVE-2021-41190).
type document struct {
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	FSLayers  json.RawMessage      `json:"fsLayers"`
}

// source is where content comes from: a registry or an archive.
type source interface {
	// fetch opens content from an offset on. Reads end when ctx does.
	fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// again says whether a read that failed may work if it is tried again, and
	// after which pause.
	again() (pause time.Duration, ok bool)
}

// content is everything about an image but its layers.
type content struct {
	manifest    ocispec.Descriptor
	layers      []ocispec.Descriptor // bottom first
	rawManifest []byte
	rawConfig   []byte
	config      ocispec.Image
}

// readContent reads the manifest for this platform and its configuration.
func readContent(ctx context.Context, src source, top ocispec.Descriptor) (*content, error) {
	desc, raw, doc, err := findManifest(ctx, src, top)
	if err != nil {
		return nil, err
	}
	if err := checkManifest(doc); err != nil {
		return nil, fmt.Errorf("cannot use manifest %s: %w", desc.Digest, err)
	}
	rawConfig, err := readBlob(ctx, src, *doc.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	c := &content{manifest: desc, layers: doc.Layers, rawManifest: raw, rawConfig: rawConfig}
	if c.config, err = parseConfig(rawConfig); err != nil {
		return nil, fmt.Errorf("cannot use configuration %s: %w", doc.Config.Digest, err)
	}
	if len(c.config.RootFS.DiffIDs) != len(c.layers) {
		return nil, fmt.Errorf("configuration %s lists %d layers, manifest %d", doc.Config.Digest, len(c.config.RootFS.DiffIDs), len(c.layers))
	}
	return c, checkPlatform(c.config.Platform)
}

// findManifest follows indexes down to the manifest for this platform.
func findManifest(ctx context.Context, src source, desc ocispec.Descriptor) (ocispec.Descriptor, []byte, *document, error) {
	for range maxIndexes {
		raw, err := readBlob(ctx, src, desc, maxManifest)
		if err != nil {
			return desc, nil, nil, fmt.Errorf("cannot read manifest: %w", err)
		}
		doc, err := parseDocument(desc, raw)
		if err != nil {
			return desc, nil, nil, fmt.Errorf("cannot use manifest %s: %w", desc.Digest, err)
		}
		if doc.Config != nil {
			return desc, raw, doc, nil
		}
		if desc, err = choose(doc.Manifests, platforms.DefaultSpec()); err != nil {
			return desc, nil, nil, err
		}
	}
	return desc, nil, nil, fmt.Errorf("more than %d indexes in each other", maxIndexes)
}

// parseDocument parses a manifest or index and finds out which it is.
func parseDocument(desc ocispec.Descriptor, raw []byte) (*document, error) {
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("not JSON as it should be: %w", err)
	}
	if doc.FSLayers != nil || isSchema1(desc.MediaType) || isSchema1(doc.MediaType) {
		return nil, errors.New("it is of Docker's schema 1, which is not supported: push the image again with a current tool, as OCI or schema 2")
	}
	isManifest, isIndex := doc.Config != nil || doc.Layers != nil, doc.Manifests != nil
	if isManifest == isIndex {
		return nil, errors.New("it is neither clearly a manifest nor clearly an index")
	}
	if isManifest && doc.Config == nil {
		return nil, errors.New("it has no configuration")
	}
	for _, mediaType := range []string{desc.MediaType, doc.MediaType} {
		if isManifest && images.IsIndexType(mediaType) || isIndex && images.IsManifestType(mediaType) {
			return nil, fmt.Errorf("its content does not fit its media type %.100q", mediaType)
		}
	}
	return &doc, nil
}

func isSchema1(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+")
}

// attestation is the annotation of a manifest that describes another one.
const attestation = "vnd.docker.reference.type"

// choose picks the manifest for the node's platform from an index, the closest
// variant first.
func choose(manifests []ocispec.Descriptor, here ocispec.Platform) (ocispec.Descriptor, error) {
	matcher := platforms.Only(here)
	var fits, unnamed []ocispec.Descriptor
	var seen []string
	for _, m := range manifests {
		if m.Annotations[attestation] != "" || !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		switch {
		case m.Platform == nil:
			unnamed = append(unnamed, m)
		case matcher.Match(*m.Platform):
			fits = append(fits, m)
		case len(seen) < 20:
			seen = append(seen, platforms.Format(*m.Platform))
		}
	}
	slices.SortStableFunc(fits, func(a, b ocispec.Descriptor) int {
		switch {
		case matcher.Less(*a.Platform, *b.Platform):
			return -1
		case matcher.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	// Without a platform the configuration has the say.
	if all := append(fits, unnamed...); len(all) > 0 {
		return all[0], nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: index has nothing for %s, only %.500q", ErrNotFound, platforms.Format(here), seen)
}

// checkPlatform refuses an image for another platform. Images that do not say
// theirs pass.
func checkPlatform(p ocispec.Platform) error {
	here := platforms.DefaultSpec()
	if p.OS == "" || p.Architecture == "" || platforms.Only(here).Match(p) {
		return nil
	}
	return fmt.Errorf("%w: image is for %s, this node is %s", ErrNotFound, platforms.Format(p), platforms.Format(here))
}

// checkManifest refuses what is no container image and what cannot be stacked.
func checkManifest(doc *document) error {
	switch doc.Config.MediaType {
	case ocispec.MediaTypeImageConfig, images.MediaTypeDockerSchema2Config, "application/octet-stream", "":
	default:
		return fmt.Errorf("it is no container image: its configuration is of type %.100q", doc.Config.MediaType)
	}
	if len(doc.Layers) > maxLayers {
		return fmt.Errorf("it has %d layers, more than %d", len(doc.Layers), maxLayers)
	}
	for _, l := range doc.Layers {
		if err := checkLayerType(l.MediaType); err != nil {
			return fmt.Errorf("layer %.100s: %w", l.Digest, err)
		}
	}
	return nil
}

// checkLayerType accepts tar archives under any of their names. How they are
// compressed is told by their content.
func checkLayerType(mediaType string) error {
	if strings.Contains(mediaType, "+encrypted") {
		return fmt.Errorf("encrypted layers (%.100q) are not supported", mediaType)
	}
	if images.IsLayerType(mediaType) {
		return nil
	}
	return fmt.Errorf("media type %.100q is not supported: layers must be tar archives, plain or compressed with gzip or zstd", mediaType)
}

func parseConfig(raw []byte) (ocispec.Image, error) {
	var img ocispec.Image
	if err := json.Unmarshal(raw, &img); err != nil {
		return img, fmt.Errorf("not JSON as it should be: %w", err)
	}
	for _, id := range img.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return img, fmt.Errorf("diffID %.100q: %w", string(id), err)
		}
	}
	return img, nil
}

// readBlob reads and verifies a small blob.
func readBlob(ctx context.Context, src source, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("blob %.100s has %d bytes, more than %d are not read", desc.Digest, desc.Size, limit)
	}
	blob, err := openBlob(ctx, src, desc, nil)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, blob)
	return buf.Bytes(), err
}

// openBlob opens content that resumes when its connection drops and ends with an
// error instead of io.EOF if it is not what its descriptor says. count is called
// with the number of bytes of each read, and may be nil.
func openBlob(ctx context.Context, src source, desc ocispec.Descriptor, count func(int)) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %.100q: %w", string(desc.Digest), err)
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("blob %s has a negative size", desc.Digest)
	}
	if count == nil {
		count = func(int) {}
	}
	return &verifiedBlob{
		resuming: resuming{ctx: ctx, src: src, desc: desc},
		hash:     desc.Digest.Algorithm().Hash(),
		count:    count,
	}, nil
}

// idOf is an image's identifier: its configuration's digest.
func idOf(config []byte) string { return digest.Canonical.FromBytes(config).String() }
