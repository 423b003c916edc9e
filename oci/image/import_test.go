package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

func rootContext() context.Context { return context.Background() }

// extract writes a tar archive's files into a new directory.
func extract(t *testing.T, r io.Reader) string {
	t.Helper()
	dir := t.TempDir()
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, hdr.Name)
		data, err := io.ReadAll(tr)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func layoutDir(t *testing.T, img *imagetest.Image) string {
	t.Helper()
	var buf bytes.Buffer
	if err := img.OCILayoutTar(&buf, "example.org/app:1"); err != nil {
		t.Fatal(err)
	}
	return extract(t, &buf)
}

func TestImportDirectory(t *testing.T) {
	l := newLab(t)
	built := imagetest.New().Compression(imagetest.Zstd).File("/f", 0o644, []byte("x")).Build()
	images, err := l.Import(t.Context(), layoutDir(t, built), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].ID != built.ID() || l.content(t, images[0], "f") != "x" {
		t.Fatalf("%+v, %v", images, err)
	}
}

func TestImportIndex(t *testing.T) {
	l := newLab(t)
	here := simple("here")
	images, err := l.Import(t.Context(), layoutDir(t, imagetest.Index(forPlatform("linux", "s390x", "x"), here)), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].ID != here.ID() {
		t.Fatalf("%+v, %v", images, err)
	}
}

// TestImportLinks: a layout directory's links do not lead outside.
func TestImportLinks(t *testing.T) {
	l := newLab(t)
	built := simple("x")
	dir := layoutDir(t, built)
	blob := filepath.Join(dir, "blobs/sha256", built.Manifest.Layers[0].Digest.Encoded())
	outside := filepath.Join(t.TempDir(), "layer")
	if err := errors.Join(os.Rename(blob, outside), os.Symlink(outside, blob)); err != nil {
		t.Fatal(err)
	}
	_, err := l.Import(t.Context(), dir, ImportOptions{})
	wantError(t, err, "cannot import image")
	if len(l.List()) != 0 {
		t.Error("imported through a link")
	}
}

func TestImportErrors(t *testing.T) {
	l := newLab(t)
	built := simple("x")
	for name, c := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"no index":   {func(dir string) error { return os.Remove(filepath.Join(dir, "index.json")) }, "neither an OCI image layout"},
		"no blob":    {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "blobs")) }, "archive has no content"},
		"index":      {func(dir string) error { return os.WriteFile(filepath.Join(dir, "index.json"), []byte("["), 0o644) }, "cannot read index.json"},
		"no image":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, "index.json"), []byte("{}"), 0o644) }, "lists no image"},
		"huge index": {func(dir string) error { return os.Truncate(filepath.Join(dir, "index.json"), maxManifest+1) }, "are not read"},
		"wrong blob": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "blobs/sha256", built.Manifest.Config.Digest.Encoded()), []byte("{}"), 0o644)
		}, "EOF"},
	} {
		dir := layoutDir(t, built)
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		_, err := l.Import(t.Context(), dir, ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	if _, err := l.Import(t.Context(), "/nonexistent", ImportOptions{}); err == nil {
		t.Error("imported nothing")
	}
	if _, err := l.ImportStream(t.Context(), strings.NewReader("no archive"), ImportOptions{}); err == nil {
		t.Error("imported text")
	}
	var packed bytes.Buffer // as docker save | gzip makes it
	z := gzip.NewWriter(&packed)
	if err := errors.Join(built.DockerArchive(z, "example.org/app:1"), z.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := l.ImportStream(t.Context(), &packed, ImportOptions{})
	wantError(t, err, "it is no tar archive; what is compressed has to be unpacked first")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.ImportStream(ctx, bytes.NewReader(nil), ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(l.List()) != 0 {
		t.Errorf("list %v", l.List())
	}
}

// TestImportOfPipes: nobody waits for what a pipe's other end writes.
func TestImportOfPipes(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	pipe := filepath.Join(dir, "index.json")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		done := make(chan error, 1)
		go func() {
			_, err := l.Import(t.Context(), path, ImportOptions{})
			done <- err
		}()
		select {
		case err := <-done:
			wantError(t, err, "no regular file")
		case <-time.After(10 * time.Second):
			t.Fatalf("import of %s waits", path)
		}
	}
}

// TestImportDockerLinks: docker save links layers that images share; and layers
// may be compressed.
func TestImportDockerLinks(t *testing.T) {
	built := simple("x")
	layer := built.Blob(built.Manifest.Layers[0].Digest) // gzip
	config := built.Blob(built.Manifest.Config.Digest)
	manifest, err := json.Marshal([]dockerManifest{{Config: "config.json", RepoTags: []string{"app:1"}, Layers: []string{"two/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range []struct {
		hdr  tar.Header
		data []byte
	}{
		{tar.Header{Typeflag: tar.TypeReg, Name: "./one/layer.tar"}, layer},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "two/layer.tar", Linkname: "../one/layer.tar"}, nil},
		{tar.Header{Typeflag: tar.TypeReg, Name: "config.json"}, config},
		{tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json"}, manifest},
	} {
		e.hdr.Size, e.hdr.Mode = int64(len(e.data)), 0o644
		if err := w.WriteHeader(&e.hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	images, err := l.ImportStream(t.Context(), &buf, ImportOptions{})
	if err != nil || len(images) != 1 || images[0].ID != built.ID() || l.content(t, images[0], "file") != "x" {
		t.Fatalf("%+v, %v", images, err)
	}
}

func TestImportStreamAndFile(t *testing.T) {
	built := imagetest.New().File("/f", 0o644, []byte("imported")).Layer().File("/g", 0o644, nil).Build()
	layout := func(name string) func(io.Writer) error {
		return func(w io.Writer) error { return built.OCILayoutTar(w, name) }
	}
	docker := func(tags ...string) func(io.Writer) error {
		return func(w io.Writer) error { return built.DockerArchive(w, tags...) }
	}
	digestName := func(repo string) []string { return []string{repo + "@" + built.Top.Digest.String()} }
	for name, c := range map[string]struct {
		write         func(io.Writer) error
		opts          ImportOptions
		tags, digests []string
	}{
		"layout":           {layout("example.org/app:v1"), ImportOptions{}, []string{"example.org/app:v1"}, digestName("example.org/app")},
		"layout short":     {layout("team/app"), ImportOptions{}, []string{"docker.io/team/app:latest"}, digestName("docker.io/team/app")},
		"layout with tag":  {layout("v2"), ImportOptions{Name: "example.org/app"}, []string{"example.org/app:v2"}, digestName("example.org/app")},
		"layout tag alone": {layout("v2"), ImportOptions{}, nil, nil},
		"layout no name":   {layout(""), ImportOptions{}, nil, nil},
		"layout named":     {layout(""), ImportOptions{Name: "x:1"}, []string{"docker.io/library/x:1"}, digestName("docker.io/library/x")},
		"docker":           {docker("app:1", "app:2"), ImportOptions{}, []string{"docker.io/library/app:1", "docker.io/library/app:2"}, nil},
		"docker named":     {docker(), ImportOptions{Name: "x:1"}, []string{"docker.io/library/x:1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := c.write(&buf); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			l := newLab(t)
			fromStream, err := l.ImportStream(t.Context(), &buf, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			fromFile, err := l.Import(t.Context(), file, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, images := range [][]Image{fromStream, fromFile} {
				if len(images) != 1 || images[0].ID != built.ID() || l.content(t, images[0], "f") != "imported" {
					t.Fatalf("images %+v", images)
				}
				if !slices.Equal(images[0].RepoTags, c.tags) || !slices.Equal(images[0].RepoDigests, c.digests) {
					t.Errorf("tags %v, digests %v", images[0].RepoTags, images[0].RepoDigests)
				}
			}
			if len(l.List()) != 1 {
				t.Errorf("list %v", l.List())
			}
		})
	}
}
