package image

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

func registryHost(scheme, host string) docker.RegistryHost {
	return docker.RegistryHost{Scheme: scheme, Host: host}
}

// swapLayer puts another image's first layer into a manifest.
func swapLayer(other *imagetest.Image) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) { m.Layers[0] = other.Manifest.Layers[0] }
}

func forPlatform(os, arch, content string) *imagetest.Image {
	return imagetest.New().Platform(ocispec.Platform{OS: os, Architecture: arch}).File("/f", 0o644, []byte(content)).Build()
}

func TestIndex(t *testing.T) {
	l := newLab(t)
	here := forPlatform("linux", platforms.DefaultSpec().Architecture, "here")
	signed := forPlatform("linux", platforms.DefaultSpec().Architecture, "attestation")
	signed.Top.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	unknown := forPlatform("unknown", "unknown", "unknown")
	idx := imagetest.Index(signed, unknown, forPlatform("windows", "amd64", "w"), forPlatform("linux", "s390x", "s"), here)
	top := l.reg.Push("app", "1", idx)
	img := l.pull(t, "app:1")
	if img.ID != here.ID() || img.Manifest != here.Top.Digest {
		t.Errorf("picked %s", img.ID)
	}
	if want := l.ref("app@" + top.String()); len(img.RepoDigests) != 1 || img.RepoDigests[0] != want {
		t.Errorf("digests %v, want the index's", img.RepoDigests)
	}

	l.reg.Push("nested", "1", imagetest.Index(idx))
	if img := l.pull(t, "nested:1"); img.ID != here.ID() {
		t.Errorf("nested: %s", img.ID)
	}
	l.reg.Push("none", "1", imagetest.Index(signed, forPlatform("linux", "s390x", "s")))
	err := l.pullError(t, "none:1", nil)
	wantError(t, err, "index has nothing for linux/", "linux/s390x")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("kind of %v", err)
	}
	deep := idx
	for range maxIndexes {
		deep = imagetest.Index(deep)
	}
	l.reg.Push("deep", "1", deep)
	wantError(t, l.pullError(t, "deep:1", nil), "indexes in each other")

	docker := imagetest.New().Docker().File("/f", 0o644, nil).Build()
	l.reg.Push("docker", "1", imagetest.Index(docker))
	if img := l.pull(t, "docker:1"); img.ID != docker.ID() {
		t.Errorf("docker list: %s", img.ID)
	}
}

// TestVariant: the closest variant that the node can run, whatever the order.
func TestVariant(t *testing.T) {
	parse := func(name string) ocispec.Platform {
		p, err := platforms.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		here string
		has  []string
		want string
	}{
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64"}, "linux/arm/v7"},
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm64"}, "linux/arm/v6"},
		{"linux/arm/v6", []string{"linux/arm/v7", "linux/arm64", "linux/arm/v5"}, "linux/arm/v5"},
		{"linux/arm64", []string{"linux/arm/v7", "linux/amd64", "linux/arm64/v8"}, "linux/arm64/v8"},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v4", "linux/amd64/v2"}, "linux/amd64/v2"},
		{"linux/amd64", []string{"linux/amd64/v2", "linux/amd64"}, "linux/amd64"},
		{"linux/arm/v6", []string{"linux/arm/v7", "linux/amd64"}, ""},
		{"linux/amd64", []string{"windows/amd64", "linux/386x"}, ""},
	} {
		var manifests []ocispec.Descriptor
		for _, name := range c.has {
			p := parse(name)
			manifests = append(manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Platform: &p})
		}
		for range 2 {
			got, err := choose(manifests, parse(c.here))
			switch {
			case c.want == "" && !errors.Is(err, ErrNotFound):
				t.Errorf("%s of %v: %+v, %v", c.here, c.has, got.Platform, err)
			case c.want != "" && (err != nil || platforms.Format(*got.Platform) != c.want):
				t.Errorf("%s of %v: %+v, %v, wanted %s", c.here, c.has, got.Platform, err, c.want)
			}
			slices.Reverse(manifests)
		}
	}
}

func TestOtherPlatform(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", forPlatform("linux", "s390x", "x"))
	wantError(t, l.pullError(t, "app:1", nil), "image is for linux/s390x, this node is linux/")
}

func TestRefusedManifests(t *testing.T) {
	good := simple("x")
	config, layer := good.Manifest.Config, good.Manifest.Layers[0]
	object := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	many := func(n int) []ocispec.Descriptor {
		list := make([]ocispec.Descriptor, n)
		for i := range list {
			list[i] = layer
		}
		return list
	}
	changed := func(change func(*ocispec.Manifest)) *imagetest.Image { return good.With(change) }
	for name, c := range map[string]struct {
		image *imagetest.Image
		want  string
	}{
		"schema 1":       {imagetest.Document("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1,"fsLayers":[]}`)), "schema 1, which is not supported"},
		"hidden schema1": {imagetest.Document(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":1,"fsLayers":[]}`)), "schema 1, which is not supported"},
		"no json":        {imagetest.Document(ocispec.MediaTypeImageManifest, []byte("<html>")), "not JSON"},
		"empty":          {imagetest.Document(ocispec.MediaTypeImageManifest, []byte("{}")), "neither clearly"},
		"both":           {imagetest.Document(ocispec.MediaTypeImageManifest, []byte(`{"config":`+object(config)+`,"layers":[],"manifests":[]}`)), "neither clearly"},
		"confused":       {imagetest.Document(ocispec.MediaTypeImageIndex, []byte(`{"config":`+object(config)+`,"layers":[]}`)), "does not fit its media type"},
		"no config":      {imagetest.Document(ocispec.MediaTypeImageManifest, []byte(`{"layers":[]}`)), "no configuration"},
		"artifact":       {changed(func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), "no container image"},
		"encrypted":      {changed(func(m *ocispec.Manifest) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip + "+encrypted" }), "encrypted layers"},
		"wasm":           {changed(func(m *ocispec.Manifest) { m.Layers[0].MediaType = "application/wasm" }), "media type"},
		"many layers":    {changed(func(m *ocispec.Manifest) { m.Layers = many(maxLayers + 1) }), "layers, more than"},
		"layer too many": {changed(func(m *ocispec.Manifest) { m.Layers = many(2) }), "lists 1 layers, manifest 2"},
		"huge config":    {changed(func(m *ocispec.Manifest) { m.Config.Size = maxConfig + 1 }), "are not read"},
		"negative size":  {changed(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), "negative size"},
		"short size":     {changed(func(m *ocispec.Manifest) { m.Layers[0].Size-- }), "expected size"},
		"long size":      {changed(func(m *ocispec.Manifest) { m.Layers[0].Size++ }), "cannot get layer"},
		"bad digest":     {changed(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc" }), "digest"},
		"unknown digest": {changed(func(m *ocispec.Manifest) { m.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.reg.Push("app", "1", good)
			l.reg.Push("app", "1", c.image)
			wantError(t, l.pullError(t, "app:1", nil), c.want)
			if dirs := l.layerDirs(t); len(dirs) > 0 {
				t.Errorf("layers %v", dirs)
			}
		})
	}
}

// TestBadConfig: a configuration whose diffIDs are none, or that is no JSON.
func TestBadConfig(t *testing.T) {
	for _, raw := range []string{
		`{"rootfs":{"diff_ids":["sha256:../../../etc/passwd"]}}`,
		`{"rootfs":{"diff_ids":[""]}}`,
		`{"rootfs":{"diff_ids":["x:y"]}}`,
		`[]`, ``, `{"config":{"Env":7}}`,
	} {
		if _, err := parseConfig([]byte(raw)); err == nil {
			t.Errorf("%s is taken", raw)
		}
	}
}

// TestForeignAddresses: addresses in a manifest are not followed.
func TestForeignAddresses(t *testing.T) {
	l := newLab(t)
	other, otherHost := serve(t)
	good := simple("x")
	l.reg.Push("app", "1", good.With(func(m *ocispec.Manifest) {
		m.Layers[0].URLs = []string{"http://" + otherHost + "/v2/app/blobs/" + m.Layers[0].Digest.String()}
		m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	}))
	l.pull(t, "app:1")
	if n := len(other.Requests("")); n > 0 {
		t.Errorf("%d requests to an address in a manifest", n)
	}
}

// TestCompressionByContent: registries lie about media types.
func TestCompressionByContent(t *testing.T) {
	l := newLab(t)
	zstd := imagetest.New().Compression(imagetest.Zstd).File("/f", 0o644, []byte("zstd")).Build()
	l.reg.Push("app", "1", zstd.With(func(m *ocispec.Manifest) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip }))
	if l.content(t, l.pull(t, "app:1"), "f") != "zstd" {
		t.Error("wrong content")
	}
}

// TestNotAnArchive: content that fits its digests and is no tar.
func TestNotAnArchive(t *testing.T) {
	for name, content := range map[string]string{
		"text":           "this is no archive " + strings.Repeat("x", 2000),
		"gzip cut short": "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
		"zstd cut short": "\x28\xb5\x2f\xfd\x04",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			bad := imagetest.Document("", []byte(content))
			l.reg.Push("app", "", bad)
			l.reg.Push("app", "1", simple("x").With(func(m *ocispec.Manifest) {
				m.Layers[0].Digest, m.Layers[0].Size = digest.FromString(content), int64(len(content))
			}))
			l.pullError(t, "app:1", nil)
		})
	}
}
