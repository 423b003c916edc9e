package image

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// lab is a registry on loopback and a store.
type lab struct {
	*Store
	reg  *imagetest.Registry
	host string // of the registry
	log  *bytes.Buffer
}

func newLab(t *testing.T, change ...func(*Config)) *lab {
	t.Helper()
	l := &lab{log: &bytes.Buffer{}}
	l.reg, l.host = serve(t)
	config := Config{
		Root:       filepath.Join(t.TempDir(), "images"),
		CertsDirs:  []string{filepath.Join(t.TempDir(), "certs.d")},
		RetryPause: time.Millisecond,
		Log:        slog.New(slog.NewTextHandler(l.log, nil)),
	}
	for _, c := range change {
		c(&config)
	}
	l.open(t, config)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lab) open(t *testing.T, config Config) {
	t.Helper()
	store, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	l.Store = store
}

// reopen closes the store, does something to its files and opens it again.
func (l *lab) reopen(t *testing.T, between func(root string)) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	between(l.config.Root)
	l.open(t, l.config)
}

// serve starts a registry on loopback for the length of the test.
func serve(t *testing.T) (*imagetest.Registry, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener), listener.Addr().String()
}

func serveOn(t *testing.T, listener net.Listener) *imagetest.Registry {
	t.Helper()
	reg := imagetest.NewRegistry()
	served := make(chan error, 1)
	go func() { served <- reg.Serve(listener) }()
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return reg
}

// ref is a name in the lab's registry.
func (l *lab) ref(name string) string { return l.host + "/" + name }

func (l *lab) pull(t *testing.T, name string) Image {
	t.Helper()
	img, err := l.Pull(t.Context(), l.ref(name), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// pullError pulls what must not work, and checks that nothing is left of it.
func (l *lab) pullError(t *testing.T, name string, auth *Auth) error {
	t.Helper()
	before := len(l.List())
	_, err := l.Pull(t.Context(), l.ref(name), auth, nil)
	if err == nil {
		t.Fatalf("pull of %s worked", name)
	}
	if len(l.List()) != before {
		t.Error("a failed pull left an image")
	}
	return err
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// simple is an image with one file of a given content.
func simple(content string) *imagetest.Image {
	return imagetest.New().File("/file", 0o644, []byte(content)).Build()
}

// content reads a file of an image's top layer that has it.
func (l *lab) content(t *testing.T, img Image, name string) string {
	t.Helper()
	for _, dir := range l.LayerPaths(img) {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return string(data)
		}
	}
	t.Fatalf("image %s has no %s", img.ID, name)
	return ""
}

// layerDirs lists what is on disk below layers.
func (l *lab) layerDirs(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.config.Root, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPull(t *testing.T) {
	for name, b := range map[string]*imagetest.Builder{
		"oci gzip":    imagetest.New(),
		"oci zstd":    imagetest.New().Compression(imagetest.Zstd),
		"oci plain":   imagetest.New().Compression(imagetest.Plain),
		"docker gzip": imagetest.New().Docker(),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			built := b.File("/etc/motd", 0o644, []byte("base")).File("/old", 0o644, []byte("old")).
				Layer().File("/etc/motd", 0o600, []byte("top")).Whiteout("/old").
				Config(func(c *ocispec.ImageConfig) { c.User, c.Cmd = "1000:5", []string{"/bin/x"} }).Build()
			top := l.reg.Push("team/app", "v1", built)

			img := l.pull(t, "team/app:v1")
			if img.ID != built.ID() {
				t.Errorf("id %s, want %s", img.ID, built.ID())
			}
			if want := []string{l.ref("team/app:v1")}; !slices.Equal(img.RepoTags, want) {
				t.Errorf("tags %v", img.RepoTags)
			}
			if want := []string{l.ref("team/app@" + top.String())}; !slices.Equal(img.RepoDigests, want) {
				t.Errorf("digests %v", img.RepoDigests)
			}
			if img.UID == nil || *img.UID != 1000 || img.Username != "" || img.Config.Config.Cmd[0] != "/bin/x" {
				t.Errorf("configuration %+v %v %q", img.Config.Config, img.UID, img.Username)
			}
			manifest, config, err := l.Raw(img.ID)
			if err != nil || !bytes.Equal(manifest, built.Blob(built.Top.Digest)) || idOf(config) != img.ID {
				t.Errorf("raw content differs, %v", err)
			}
			if want := int64(len("base") + len("old") + len("top") + len(manifest) + len(config)); img.Size != want {
				t.Errorf("size %d, want %d", img.Size, want)
			}
			if !slices.Equal(img.Layers, built.DiffIDs) {
				t.Errorf("layers %v", img.Layers)
			}
			paths := l.LayerPaths(img)
			if len(paths) != 2 {
				t.Fatalf("paths %v", paths)
			}
			for i, want := range []string{"top", "base"} {
				if data, err := os.ReadFile(filepath.Join(paths[i], "etc/motd")); err != nil || string(data) != want {
					t.Errorf("layer %d from the top: %q, %v", i, data, err)
				}
			}
			if bytes, inodes := l.Fs(); bytes == 0 || inodes == 0 {
				t.Error("nothing is counted")
			}
		})
	}
}

func TestUserName(t *testing.T) {
	l := newLab(t)
	for user, want := range map[string]string{"www-data": "www-data", "www-data:1": "www-data", "": ""} {
		l.reg.Push("app", "u", imagetest.New().Config(func(c *ocispec.ImageConfig) { c.User = user }).Build())
		img := l.pull(t, "app:u")
		if img.Username != want || img.UID != nil {
			t.Errorf("user %q: %q %v", user, img.Username, img.UID)
		}
	}
}

func TestResolve(t *testing.T) {
	l := newLab(t)
	built := simple("x")
	top := l.reg.Push("library/app", "latest", built)
	img := l.pull(t, "library/app")
	hex := strings.TrimPrefix(img.ID, "sha256:")
	for _, ref := range []string{
		l.ref("library/app"), l.ref("library/app:latest"), l.ref("library/app@" + top.String()),
		l.ref("library/app:latest@" + top.String()), l.ref("library/app:other@" + top.String()),
		img.ID, hex, hex[:12], hex[:1], "sha256:" + hex[:13],
	} {
		if got, ok := l.Resolve(ref); !ok || got.ID != img.ID {
			t.Errorf("%s is not found", ref)
		}
	}
	for _, ref := range []string{
		"", "sha256:", l.ref("library/app:v2"), "app", "library/app", "UPPER", "sha256:zz", strings.Repeat("0", 64),
		l.ref("library/app@" + digest.FromString("x").String()), strings.Repeat("a", 10_000), "sha256:" + hex + "0",
	} {
		if _, ok := l.Resolve(ref); ok {
			t.Errorf("%q is found", ref)
		}
	}
}

func TestShortNames(t *testing.T) {
	for short, want := range map[string]string{
		"busybox":             "docker.io/library/busybox:latest",
		"busybox:1":           "docker.io/library/busybox:1",
		"team/app":            "docker.io/team/app:latest",
		"index.docker.io/a/b": "docker.io/a/b:latest",
		"localhost/app":       "localhost/app:latest",
		"localhost:5000/app":  "localhost:5000/app:latest",
		"gcr.io/p/app:v1":     "gcr.io/p/app:v1",
	} {
		if named, err := parseName(short); err != nil || named.String() != want {
			t.Errorf("%s: %v, %v", short, named, err)
		}
	}
}

func TestUniquePrefix(t *testing.T) {
	images := map[string]Image{}
	for _, hex := range []string{"aa11", "aa22", "bb33"} {
		id := idPrefix + hex + strings.Repeat("0", 60)
		images[id] = Image{ID: id}
	}
	x := newIndex(images)
	if _, ok := x.byID("aa"); ok {
		t.Error("aa is not unique")
	}
	for _, hex := range []string{"aa1", "aa2", "b"} {
		if img, ok := x.byID(hex); !ok || !strings.HasPrefix(img.ID, idPrefix+hex) {
			t.Errorf("%s: %v %v", hex, img.ID, ok)
		}
	}
}

func TestPullByDigest(t *testing.T) {
	l := newLab(t)
	top := l.reg.Push("app", "", simple("x"))
	name := "app@" + top.String()
	img := l.pull(t, name)
	if len(img.RepoTags) != 0 || !slices.Equal(img.RepoDigests, []string{l.ref(name)}) {
		t.Errorf("tags %v, digests %v", img.RepoTags, img.RepoDigests)
	}
	// A tag beside the digest does not count, as in Docker.
	img = l.pull(t, "app:v9@"+top.String())
	if len(img.RepoTags) != 0 || !slices.Equal(img.RepoDigests, []string{l.ref(name)}) {
		t.Errorf("tags %v, digests %v", img.RepoTags, img.RepoDigests)
	}
}

func TestTagMoves(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "v", simple("one"))
	one := l.pull(t, "app:v")
	listed := l.List()
	l.reg.Push("app", "v", simple("two"))
	two := l.pull(t, "app:v")
	if one.ID == two.ID {
		t.Fatal("same image")
	}
	if got, _ := l.Resolve(l.ref("app:v")); got.ID != two.ID {
		t.Errorf("tag is still on %s", got.ID)
	}
	old, ok := l.Resolve(one.ID)
	if !ok || len(old.RepoTags) != 0 || len(old.RepoDigests) != 1 {
		t.Errorf("dangling image: %v %+v", ok, old)
	}
	if len(l.List()) != 2 || len(listed) != 1 || len(listed[0].RepoTags) != 1 {
		t.Error("lists are wrong, or an old list changed")
	}
	// And back.
	l.reg.Push("app", "v", simple("one"))
	if again := l.pull(t, "app:v"); again.ID != one.ID || again.Size != one.Size {
		t.Errorf("%+v", again)
	}
}

func TestOneImageManyNames(t *testing.T) {
	l := newLab(t)
	other, otherHost := serve(t)
	built := simple("x")
	l.reg.Push("a", "1", built)
	l.reg.Push("a", "2", built)
	other.Push("b", "1", built)
	l.pull(t, "a:1")
	l.pull(t, "a:2")
	if _, err := l.Pull(t.Context(), otherHost+"/b:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	list := l.List()
	if len(list) != 1 || len(list[0].RepoTags) != 3 || len(list[0].RepoDigests) != 2 {
		t.Fatalf("%+v", list)
	}
	if err := l.Remove(l.ref("a:2")); err != nil {
		t.Fatal(err)
	}
	if len(l.List()) != 0 {
		t.Error("names are left")
	}
	for _, name := range []string{l.ref("a:1"), otherHost + "/b:1", built.ID()} {
		if _, ok := l.Resolve(name); ok {
			t.Errorf("%s is found", name)
		}
		if err := l.Remove(name); err != nil {
			t.Errorf("second removal: %v", err)
		}
	}
}

// TestPullAgain: nothing but the name is asked for when all is here.
func TestPullAgain(t *testing.T) {
	l := newLab(t)
	top := l.reg.Push("app", "1", simple("x"))
	l.reg.Push("app", "2", simple("x"))
	first := l.pull(t, "app:1")
	before := len(l.reg.Requests(""))
	second := l.pull(t, "app:2")
	if n := len(l.reg.Requests("")) - before; n != 1 {
		t.Errorf("%d requests", n)
	}
	if second.ID != first.ID || len(second.RepoTags) != 2 || len(l.List()) != 1 {
		t.Errorf("%+v", second)
	}
	if img := l.pull(t, "app@"+top.String()); len(img.RepoTags) != 2 || len(img.RepoDigests) != 1 {
		t.Errorf("%+v", img)
	}
}

func TestPinned(t *testing.T) {
	l := newLab(t)
	l.config.Pinned = []string{l.host + "/infra/*", l.host + "/pause:1"}
	l.reopen(t, func(string) {})
	for name, want := range map[string]bool{"infra/a/b:1": true, "pause:1": true, "pause:2": false, "app:1": false} {
		repo, tag, _ := strings.Cut(name, ":")
		l.reg.Push(repo, tag, simple(name))
		if img := l.pull(t, name); img.Pinned != want {
			t.Errorf("%s pinned: %v", name, img.Pinned)
		}
	}
	if _, err := Open(Config{Root: t.TempDir(), Pinned: []string{""}}); err == nil {
		t.Error("an empty pattern is taken")
	}
}

func TestSharedLayers(t *testing.T) {
	l := newLab(t)
	base := func() *imagetest.Builder {
		return imagetest.New().File("/base", 0o644, bytes.Repeat([]byte("b"), 1<<20)).Layer()
	}
	l.reg.Push("a", "1", base().File("/a", 0o644, []byte("a")).Build())
	l.reg.Push("b", "1", base().File("/b", 0o644, []byte("b")).Build())
	a := l.pull(t, "a:1")
	one, _ := l.Fs()
	b := l.pull(t, "b:1")
	two, _ := l.Fs()
	if a.Layers[0] != b.Layers[0] || a.Size < 1<<20 || b.Size < 1<<20 {
		t.Errorf("sizes %d %d", a.Size, b.Size)
	}
	if two-one > 100<<10 {
		t.Errorf("the second image took %d bytes on disk", two-one)
	}
	if n := len(l.reg.Requests("/b/blobs/" + a.Layers[0].String())); n > 0 {
		t.Error("a layer that was there was downloaded")
	}
	if err := l.Collect(); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	if l.content(t, b, "base") == "" || len(l.layerDirs(t)) != 2 {
		t.Errorf("layers %v", l.layerDirs(t))
	}
}

// TestEqualLayers: overlay refuses one directory twice.
func TestEqualLayers(t *testing.T) {
	l := newLab(t)
	built := imagetest.New().File("/x", 0o644, []byte("same")).
		Layer().File("/x", 0o644, []byte("other")).
		Layer().File("/x", 0o644, []byte("same")).Build()
	l.reg.Push("app", "1", built)
	img := l.pull(t, "app:1")
	if paths := l.LayerPaths(img); len(paths) != 2 || l.content(t, img, "x") != "same" || len(img.Layers) != 3 {
		t.Errorf("paths %v, layers %v", paths, img.Layers)
	}
}

func TestOpaqueRootEndsStack(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", imagetest.New().File("/below", 0o644, nil).
		Layer().File(".wh..wh..opq", 0o644, nil).File("/above", 0o644, nil).Build())
	if paths := l.LayerPaths(l.pull(t, "app:1")); len(paths) != 1 {
		t.Errorf("paths %v", paths)
	}
}

func TestProgress(t *testing.T) {
	l := newLab(t)
	built := imagetest.New().File("/a", 0o644, []byte("a")).Layer().File("/b", 0o644, []byte("b")).Build()
	l.reg.Push("app", "1", built)
	var total int64
	for _, d := range built.Manifest.Layers {
		total += d.Size
	}
	for range 2 { // the second time all layers are here already
		var last Progress
		if _, err := l.Pull(t.Context(), l.ref("app:1"), nil, func(p Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if want := (Progress{total, total, 2, 2}); last != want {
			t.Errorf("last progress %+v, want %+v", last, want)
		}
		if err := l.Remove(built.ID()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyLayers(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxConcurrentLayers = 2 })
	b := imagetest.New()
	for i := range 200 {
		b.File("/f", 0o644, []byte{byte(i)}).Layer()
	}
	l.reg.Push("app", "1", b.Build())
	img := l.pull(t, "app:1")
	if l.content(t, img, "f") != string([]byte{199}) {
		t.Error("layers are in the wrong order")
	}
}

// within runs a function that must come to its end.
func within(t *testing.T, d time.Duration, what string, f func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	f(ctx)
	if ctx.Err() != nil {
		t.Errorf("%s took longer than %s", what, d)
	}
}
