// Package powercut_test proves what images are after a power cut at any moment: the
// image service runs recorded, and its record is replayed up to a point, without
// some of what no sync had put on disk by then.
package powercut_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"github.com/opencontainers/go-digest"
)

// childVar, in the environment, makes this binary the program that is recorded:
// the registry's address and the root.
const childVar = "POWERCUT_CHILD"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(childVar)); len(args) == 2 {
		if err := recordedLife(args[0], args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	supervise.Main()
	harness.Main(m)
}

// points is how many cuts are tried, CRIBOX_CUTS in the long form.
const points = 1500

// recordedLife is the program that is recorded.
func recordedLife(host, root string) error {
	if err := supervise.Begin(3, true, supervise.Calls); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	return live(host, root, func(text string) error {
		_, err := io.WriteString(w, mark+text)
		return err
	})
}

// live is a life of images: pulled, pulled again, removed. say takes a word before
// and after each step.
func live(host, root string, say func(string) error) error {
	s, err := open(root)
	if err != nil {
		return err
	}
	for _, step := range []string{"+a", "+b", "-a", "+c", "+a", "-b", "-c", "+b"} {
		name := host + "/" + step[1:] + ":1"
		if err := say("?" + step[1:]); err != nil {
			return err
		}
		if step[0] == '+' {
			_, err = s.Pull(context.Background(), name, nil, nil)
		} else {
			err = s.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if err := say(step); err != nil {
			return err
		}
	}
	return s.Close()
}

func open(root string) (*image.Store, error) {
	return image.Open(image.Config{Root: root, CertsDirs: []string{}, Log: slog.New(slog.DiscardHandler)})
}

// images are three of them that share a layer.
func images() map[string]*imagetest.Image {
	all := map[string]*imagetest.Image{}
	for _, name := range []string{"a", "b", "c"} {
		b := imagetest.New().Dir("etc", 0o755).File("etc/shared", 0o644, bytes.Repeat([]byte("shared "), 3000)).Symlink("link", "etc/shared").Layer()
		for n := range 6 {
			b.File(fmt.Sprintf("%s/%d", name, n), 0o644, bytes.Repeat([]byte(name+strconv.Itoa(n)), 1500))
		}
		all[name] = b.Link(name+"/hard", name+"/0").Layer().File("top", 0o600, []byte(name)).Build()
	}
	return all
}

// TestPowerCut cuts the power at random moments of a recorded life.
func TestPowerCut(t *testing.T) {
	n := points
	if v, err := strconv.Atoi(os.Getenv("CRIBOX_CUTS")); err == nil {
		n = v
	}
	all := images()
	host := serveImages(t, all)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", childVar, host, root))
	cmd.Stderr = os.Stderr
	ops := record(t, cmd, root)
	if t.Failed() {
		return
	}
	whole := wholeLayers(t, all)
	r, seed := chance()
	// In memory: what a sync costs is not asked here.
	dir, err := os.MkdirTemp("/dev/shm", "powercut")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	for k := range n {
		at := r.IntN(len(ops) + 1)
		if k <= len(ops) {
			at = k // each once
		}
		c := cutAt(ops[:at], r)
		if err := c.check(filepath.Join(dir, strconv.Itoa(k)), whole); err != nil {
			t.Fatalf("seed %d: a cut after %d of %d operations, %d of them lost: %v\nlast was %v", seed, at, len(ops), c.lost, err, last(ops[:at]))
		}
	}
	t.Logf("%d operations recorded, %d cuts replayed in %v", len(ops), n, time.Since(began).Round(time.Millisecond))
}

// serveImages serves them in a registry and returns its address.
func serveImages(t *testing.T, all map[string]*imagetest.Image) string {
	t.Helper()
	reg := imagetest.NewRegistry()
	for name, img := range all {
		reg.Push(name, "1", img)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go reg.Serve(listener)
	t.Cleanup(func() { reg.Close() })
	return listener.Addr().String()
}

// chance is what decides what is lost; CRIBOX_CUTS_SEED repeats a test that failed.
func chance() (r *rand.Rand, seed uint64) {
	seed, err := strconv.ParseUint(os.Getenv("CRIBOX_CUTS_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	return rand.New(rand.NewPCG(seed, 0)), seed
}

func last(ops []op) any {
	if len(ops) == 0 {
		return "none"
	}
	return ops[len(ops)-1]
}

// A cut is what a disk may hold after a power cut.
type cut struct {
	disk *disk
	lost int
	// listed says of each image whether it is to be listed; one that was being
	// pulled or removed is not in it.
	listed map[string]bool
}

// cutAt loses some of what was not synced: of some cuts all, of some nothing. A
// write that is lost may be torn.
func cutAt(ops []op, r *rand.Rand) *cut {
	c := &cut{disk: newDisk(), listed: map[string]bool{}}
	keep := []float64{0, 0.2, 0.5, 0.8, 1}[r.IntN(5)]
	on := synced(ops)
	for i, o := range ops {
		switch {
		case o.kind == opMark:
			c.hear(o.name)
		case on[i] || r.Float64() < keep:
			c.disk.apply(o)
		default:
			c.lost++
			if o.kind == opWrite && len(o.data) > 512 && r.IntN(3) == 0 {
				o.data = o.data[:512*(1+r.IntN(len(o.data)/512))]
				c.disk.apply(o)
			}
		}
	}
	return c
}

// hear takes what live says.
func (c *cut) hear(word string) {
	if c.listed[word[1:]] = word[0] == '+'; word[0] == '?' {
		delete(c.listed, word[1:])
	}
}

// check starts the image service on the disk.
func (c *cut) check(dir string, whole map[digest.Digest]map[string]string) error {
	if err := c.disk.put(dir); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return c.start(dir, whole)
}

// start starts the image service on a directory.
func (c *cut) start(dir string, whole map[digest.Digest]map[string]string) error {
	s, err := open(dir)
	if err != nil {
		return fmt.Errorf("it does not start: %w", err)
	}
	defer s.Close()
	if err := s.Collect(); err != nil {
		return fmt.Errorf("it cannot collect: %w", err)
	}
	listed, used := map[string]bool{}, map[string]bool{}
	for _, img := range s.List() {
		for _, tag := range img.RepoTags {
			name, _, _ := strings.Cut(tag[strings.LastIndex(tag, "/")+1:], ":")
			listed[name] = true
		}
		for _, id := range img.Layers {
			used[strings.Replace(string(id), ":", "-", 1)] = true
			if err := sameFiles(filepath.Join(dir, "layers", strings.Replace(string(id), ":", "-", 1), "fs"), whole[id]); err != nil {
				return fmt.Errorf("layer %s of %v: %w", id, img.RepoTags, err)
			}
		}
	}
	for name, want := range c.listed {
		if listed[name] != want {
			return fmt.Errorf("image %s is listed: %v, although what said otherwise had returned", name, listed[name])
		}
	}
	return nothingElse(dir, used)
}

// nothingElse wants no layer that no image has, and nothing half made.
func nothingElse(dir string, used map[string]bool) error {
	for _, sub := range []string{"layers", "incoming", "trash"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if sub != "layers" || !used[e.Name()] {
				return fmt.Errorf("left over: %s/%s", sub, e.Name())
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) != 4 {
		return fmt.Errorf("beside the directories and images.db: %v", entries)
	}
	return err
}

// wholeLayers are the files of every layer as its archive has them, whose digest
// is the layer's id.
func wholeLayers(t *testing.T, all map[string]*imagetest.Image) map[digest.Digest]map[string]string {
	t.Helper()
	whole := map[digest.Digest]map[string]string{}
	for _, img := range all {
		for _, desc := range img.Manifest.Layers {
			var plain io.Reader = bytes.NewReader(img.Blob(desc.Digest))
			if z, err := gzip.NewReader(bytes.NewReader(img.Blob(desc.Digest))); err == nil {
				plain = z
			}
			data, err := io.ReadAll(plain)
			if err != nil {
				t.Fatal(err)
			}
			whole[digest.FromBytes(data)] = untar(t, data)
		}
	}
	return whole
}

func untar(t *testing.T, data []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			files[name] = string(content)
		case tar.TypeSymlink:
			files[name] = "→ " + hdr.Linkname
		case tar.TypeLink:
			files[name] = files[filepath.Clean(hdr.Linkname)]
		}
	}
}

// sameFiles compares a directory with what should be in it.
func sameFiles(dir string, want map[string]string) error {
	if want == nil {
		return fmt.Errorf("nobody made such a layer")
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			got[rel] = "→ " + target
			return err
		}
		b, err := os.ReadFile(p)
		got[rel] = string(b)
		return err
	})
	if err != nil {
		return err
	}
	for name, text := range want {
		if got[name] != text {
			return fmt.Errorf("file %s has %d bytes, want %d, or others", name, len(got[name]), len(text))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d files, want %d", len(got), len(want))
	}
	return nil
}
