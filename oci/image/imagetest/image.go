// Package imagetest makes images and serves them, in memory and in this process:
// for tests and for the demonstration. Nothing is downloaded.
//
//	img := imagetest.New().
//		File("/bin/hello", 0o755, program).
//		Config(func(c *ocispec.ImageConfig) { c.Cmd = []string{"/bin/hello"} }).
//		Build()
//	reg := imagetest.NewRegistry()
//	reg.Push("hello", "latest", img)
//	go reg.Serve(listener)
package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression says how layers are packed.
type Compression string

// The compressions that container images have.
const (
	Gzip  Compression = "+gzip"
	Zstd  Compression = "+zstd"
	Plain Compression = ""
)

// Docker's names for what OCI has others for.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// ModTime is the time of all files that a Builder makes, so that the same calls
// give the same image.
var ModTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Builder collects an image's layers and configuration. Its methods panic where
// a program that makes an image is wrong: there is nobody to handle it.
type Builder struct {
	layers      []*layerBuilder
	config      ocispec.Image
	compression Compression
	docker      bool
}

type layerBuilder struct {
	buf  bytes.Buffer
	tar  *tar.Writer
	dirs map[string]bool
	mode map[string]int64 // of the files
}

// New begins an image for this platform with one empty layer.
func New() *Builder {
	b := &Builder{compression: Gzip}
	b.config.Platform = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	return b.Layer()
}

// Layer ends the layer and begins the next one above it.
func (b *Builder) Layer() *Builder {
	l := &layerBuilder{dirs: map[string]bool{".": true}, mode: map[string]int64{}}
	l.tar = tar.NewWriter(&l.buf)
	b.layers = append(b.layers, l)
	return b
}

func (b *Builder) top() *layerBuilder { return b.layers[len(b.layers)-1] }

// File adds a regular file, root's, with the directories above it.
func (b *Builder) File(name string, mode int64, content []byte) *Builder {
	return b.Entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

// Dir adds a directory, root's, with the directories above it.
func (b *Builder) Dir(name string, mode int64) *Builder {
	return b.Entry(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

// Symlink adds a symbolic link.
func (b *Builder) Symlink(name, target string) *Builder {
	return b.Entry(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// Link adds a hard link to a file of the same layer. Its entry has the file's
// mode, as tar writes it: there are runtimes that set it again.
func (b *Builder) Link(name, target string) *Builder {
	target = relative(target)
	return b.Entry(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: b.top().mode[target]}, nil)
}

// Whiteout takes a file or directory of the layers below away.
func (b *Builder) Whiteout(name string) *Builder {
	return b.File(path.Join(path.Dir(name), ".wh."+path.Base(name)), 0o644, nil)
}

// Entry adds any entry, under a name made relative, with the directories above it.
func (b *Builder) Entry(hdr *tar.Header, content []byte) *Builder {
	hdr.Name = relative(hdr.Name)
	b.top().parents(path.Dir(hdr.Name))
	switch hdr.Typeflag {
	case tar.TypeDir:
		b.top().dirs[hdr.Name] = true
		hdr.Name += "/"
	case tar.TypeReg:
		b.top().mode[hdr.Name] = hdr.Mode
	}
	return b.Raw(hdr, content)
}

// Raw adds an entry exactly as it is, however hostile.
func (b *Builder) Raw(hdr *tar.Header, content []byte) *Builder {
	if hdr.ModTime.IsZero() {
		hdr.ModTime = ModTime
	}
	if len(hdr.PAXRecords) > 0 {
		hdr.Format = tar.FormatPAX
	}
	must(b.top().tar.WriteHeader(hdr))
	_, err := b.top().tar.Write(content)
	must(err)
	return b
}

func (l *layerBuilder) parents(dir string) {
	if l.dirs[dir] {
		return
	}
	l.parents(path.Dir(dir))
	l.dirs[dir] = true
	must(l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: ModTime}))
}

func relative(name string) string { return path.Clean("/" + name)[1:] }

// Config changes what a container of the image runs with.
func (b *Builder) Config(change func(*ocispec.ImageConfig)) *Builder {
	change(&b.config.Config)
	return b
}

// Platform makes the image one for another platform.
func (b *Builder) Platform(p ocispec.Platform) *Builder {
	b.config.Platform = p
	return b
}

// Compression packs the layers, which are gzip otherwise.
func (b *Builder) Compression(c Compression) *Builder {
	b.compression = c
	return b
}

// Docker gives everything Docker's media types instead of OCI's.
func (b *Builder) Docker() *Builder {
	b.docker = true
	return b
}

// Build ends the image. The Builder must not be used any more.
func (b *Builder) Build() *Image {
	img := &Image{blobs: map[digest.Digest][]byte{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: b.name(ocispec.MediaTypeImageManifest, dockerManifest)}
	for _, l := range b.layers {
		must(l.tar.Close())
		b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, digest.FromBytes(l.buf.Bytes()))
		m.Layers = append(m.Layers, img.put(b.layerType(), compress(l.buf.Bytes(), b.compression)))
		img.tars = append(img.tars, l.buf.Bytes())
	}
	b.config.RootFS.Type = "layers"
	img.config = marshal(b.config)
	img.DiffIDs = b.config.RootFS.DiffIDs
	m.Config = img.put(b.name(ocispec.MediaTypeImageConfig, dockerConfig), img.config)
	img.Manifest = m
	img.Top = img.put(m.MediaType, marshal(m))
	img.Top.Platform = &b.config.Platform
	return img
}

func (b *Builder) name(oci, docker string) string {
	if b.docker {
		return docker
	}
	return oci
}

func (b *Builder) layerType() string {
	if b.docker {
		return dockerLayer + strings.Replace(string(b.compression), "+", ".", 1)
	}
	return ocispec.MediaTypeImageLayer + string(b.compression)
}

// Image is a finished image, or an index of several.
type Image struct {
	// Top describes the manifest or index.
	Top ocispec.Descriptor
	// Manifest is the manifest; empty for an index.
	Manifest ocispec.Manifest
	// DiffIDs are the digests of the unpacked layers, bottom first.
	DiffIDs []digest.Digest

	config []byte
	tars   [][]byte
	blobs  map[digest.Digest][]byte
}

// ID returns the digest of the configuration.
func (img *Image) ID() string { return img.Manifest.Config.Digest.String() }

// Blob returns content by its digest, or nil.
func (img *Image) Blob(d digest.Digest) []byte { return img.blobs[d] }

// put keeps bytes under their digest.
func (img *Image) put(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	img.blobs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// With returns the image with another manifest, made by change from its own.
func (img *Image) With(change func(*ocispec.Manifest)) *Image {
	out := &Image{DiffIDs: img.DiffIDs, config: img.config, tars: img.tars, blobs: map[digest.Digest][]byte{}}
	for d, data := range img.blobs {
		out.blobs[d] = data
	}
	out.Manifest = img.Manifest
	out.Manifest.Layers = slices.Clone(img.Manifest.Layers)
	change(&out.Manifest)
	out.Top = out.put(out.Manifest.MediaType, marshal(out.Manifest))
	out.Top.Platform = img.Top.Platform
	return out
}

// Index returns an index of images. Each stands in it with its Top, which may be
// changed before.
func Index(images ...*Image) *Image {
	out := &Image{blobs: map[digest.Digest][]byte{}}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		if img.Top.MediaType == dockerManifest {
			idx.MediaType = dockerIndex
		}
		idx.Manifests = append(idx.Manifests, img.Top)
		for d, data := range img.blobs {
			out.blobs[d] = data
		}
	}
	out.Top = out.put(idx.MediaType, marshal(idx))
	return out
}

// Document returns content that is served as a manifest as it is.
func Document(mediaType string, data []byte) *Image {
	out := &Image{blobs: map[digest.Digest][]byte{}}
	out.Top = out.put(mediaType, data)
	return out
}

// OCILayoutTar writes the image as a tar file with an OCI image layout. The name,
// if not empty, becomes the annotation that tools read, whole name or tag.
func (img *Image) OCILayoutTar(w io.Writer, name string) error {
	top := img.Top
	if name != "" {
		top.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{top}}
	files := map[string][]byte{
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": marshal(idx),
	}
	for d, data := range img.blobs {
		files["blobs/"+d.Algorithm().String()+"/"+d.Encoded()] = data
	}
	return writeFiles(w, files)
}

// DockerArchive writes the image as docker save does, with its tags.
func (img *Image) DockerArchive(w io.Writer, tags ...string) error {
	configName := digest.FromBytes(img.config).Encoded() + ".json"
	files := map[string][]byte{configName: img.config}
	var layers []string
	for i, data := range img.tars {
		name := fmt.Sprintf("%s/layer.tar", img.DiffIDs[i].Encoded())
		layers = append(layers, name)
		files[name] = data
	}
	files["manifest.json"] = marshal([]map[string]any{{"Config": configName, "RepoTags": tags, "Layers": layers}})
	return writeFiles(w, files)
}

func writeFiles(w io.Writer, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, name := range names {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: ModTime}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := tw.Write(files[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

func compress(data []byte, c Compression) []byte {
	var buf bytes.Buffer
	switch c {
	case Gzip:
		w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		must(err)
		_, err = w.Write(data)
		must(err)
		must(w.Close())
	case Zstd:
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		must(err)
		_, err = w.Write(data)
		must(err)
		must(w.Close())
	default:
		return data
	}
	return buf.Bytes()
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	must(err)
	return data
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("imagetest: %v", err))
	}
}
