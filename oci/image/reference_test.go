package image

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// collected is a lab in which unused layers are deleted.
func collected(t *testing.T, change ...func(*Config)) *lab {
	t.Helper()
	l := newLab(t, change...)
	if err := l.Collect(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRemoveDeletesLayers(t *testing.T) {
	l := collected(t)
	l.reg.Push("app", "1", simple("x"))
	empty, _ := l.Fs()
	l.pull(t, "app:1")
	full, _ := l.Fs()
	if err := l.Remove(l.ref("app:1")); err != nil {
		t.Fatal(err)
	}
	if dirs := l.layerDirs(t); len(dirs) != 0 {
		t.Errorf("layers %v", dirs)
	}
	if after, _ := l.Fs(); full <= empty || after >= full {
		t.Errorf("bytes %d, %d, %d", empty, full, after)
	}
	if err := l.Remove("nothing:1"); err != nil {
		t.Error(err)
	}
	l.pull(t, "app:1")
}

func TestHold(t *testing.T) {
	l := collected(t)
	l.reg.Push("app", "1", simple("x"))
	l.pull(t, "app:1")
	img, ok := l.HoldImage("one", l.ref("app:1"))
	if !ok {
		t.Fatal("not found")
	}
	l.Hold("two", img.Layers)
	l.Hold("two", img.Layers) // again, as after a restart
	if err := l.Remove(img.ID); err != nil {
		t.Fatal(err)
	}
	if len(l.List()) != 0 {
		t.Error("still listed")
	}
	for _, holder := range []string{"one", "one", "nobody"} {
		l.Release(holder)
		l.work.Wait()
		if l.content(t, img, "file") != "x" {
			t.Error("files are gone")
		}
	}
	l.Release("two")
	l.work.Wait()
	if dirs := l.layerDirs(t); len(dirs) != 0 {
		t.Errorf("layers %v", dirs)
	}
	if _, ok := l.HoldImage("three", img.ID); ok {
		t.Error("held an image that is not there")
	}
	// A hold that moves to other layers lets go of the old ones.
	l.reg.Push("app", "2", simple("y"))
	img = l.pull(t, "app:2")
	l.Hold("one", img.Layers)
	if err := l.Remove(img.ID); err != nil {
		t.Fatal(err)
	}
	l.Hold("one", nil)
	l.work.Wait()
	if dirs := l.layerDirs(t); len(dirs) != 0 {
		t.Errorf("layers %v", dirs)
	}
}

// TestHoldOverRestart: a running container's image was removed, and then the
// daemon starts again.
func TestHoldOverRestart(t *testing.T) {
	l := collected(t)
	l.reg.Push("app", "1", simple("x"))
	img := l.pull(t, "app:1")
	l.Hold("container", img.Layers)
	if err := l.Remove(img.ID); err != nil {
		t.Fatal(err)
	}
	l.reopen(t, func(string) {})
	l.reg.Push("other", "1", simple("y"))
	other := l.pull(t, "other:1")
	if err := l.Remove(other.ID); err != nil {
		t.Fatal(err)
	}
	if l.content(t, img, "file") != "x" || len(l.layerDirs(t)) != 2 {
		t.Error("something was deleted before Collect")
	}
	l.Hold("container", img.Layers)
	if err := l.Collect(); err != nil {
		t.Fatal(err)
	}
	if l.content(t, img, "file") != "x" || len(l.layerDirs(t)) != 1 {
		t.Errorf("layers %v", l.layerDirs(t))
	}
	l.Release("container")
	l.work.Wait()
	if dirs := l.layerDirs(t); len(dirs) != 0 {
		t.Errorf("layers %v", dirs)
	}
}

// TestRetryAfterFailure: what a failed pull got is there for the next one, and
// goes away if there is none.
func TestRetryAfterFailure(t *testing.T) {
	built := imagetest.New().File("/a", 0o644, []byte("a")).Layer().File("/b", 0o644, []byte("b")).Build()
	first, second := built.Manifest.Layers[0].Digest.String(), built.Manifest.Layers[1].Digest.String()
	for _, keep := range []time.Duration{time.Hour, time.Millisecond} {
		l := collected(t, func(c *Config) { c.KeepUnused = keep })
		l.reg.Push("app", "1", built)
		l.reg.Break(imagetest.Fault{Path: second, Do: func(w http.ResponseWriter, _ *http.Request) {
			waitFor(t, func() bool { return len(l.layerDirs(t)) == 1 })
			w.WriteHeader(http.StatusForbidden)
		}})
		l.pullError(t, "app:1", nil)
		l.reg.Mend()
		if keep < time.Second {
			waitFor(t, func() bool { return len(l.layerDirs(t)) == 0 })
			continue
		}
		l.pull(t, "app:1")
		if n := len(l.reg.Requests(first)); n != 1 {
			t.Errorf("the first layer was downloaded %d times", n)
		}
	}
}

func TestReopen(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Pinned = []string{"*pause*"} })
	for _, name := range []string{"app:1", "app:2", "pause:1"} {
		repo, tag, _ := strings.Cut(name, ":")
		l.reg.Push(repo, tag, imagetest.New().File("/f", 0o644, []byte(name)).Layer().File("/g", 0o644, nil).Build())
		l.pull(t, name)
	}
	if err := l.Remove(l.ref("app:2")); err != nil {
		t.Fatal(err)
	}
	before := l.List()
	bytes, inodes := l.Fs()
	l.reopen(t, func(string) {})
	if err := l.Collect(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, l.List()) || len(before) != 2 {
		t.Errorf("before %+v\nafter %+v", before, l.List())
	}
	l.reopen(t, func(string) {})
	again, againInodes := l.Fs()
	if again >= bytes || againInodes >= inodes {
		t.Errorf("the removed image's layer still counts: %d %d, %d %d", bytes, inodes, again, againInodes)
	}
}

func TestOpenTwice(t *testing.T) {
	l := newLab(t)
	_, err := Open(l.config)
	wantError(t, err, "another process has it open")
	if _, err := os.Stat(filepath.Join(l.config.Root, databaseFile+".broken")); err == nil {
		t.Error("a database in use was set aside")
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("opened without a root")
	}
}

// TestEmptyDatabase: a file of no length, as a power cut leaves it, is a new one.
func TestEmptyDatabase(t *testing.T) {
	l := newLab(t)
	l.reopen(t, func(root string) {
		if err := os.Truncate(filepath.Join(root, databaseFile), 0); err != nil {
			t.Fatal(err)
		}
	})
	if len(l.List()) != 0 {
		t.Error("images from nowhere")
	}
}

// TestNewerDatabase: a database of a later version keeps nobody from starting and is
// not thrown away: the program that wrote it finds it beside.
func TestNewerDatabase(t *testing.T) {
	l := newLab(t)
	config := l.config
	editDatabase(t, l, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(versionKey, []byte("2")) })
	l.open(t, config)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	aside := filepath.Join(config.Root, databaseFile+".broken")
	if err := os.Rename(aside, filepath.Join(config.Root, databaseFile)); err != nil {
		t.Fatal(err)
	}
	editClosed(t, config.Root, func(tx *bbolt.Tx) error {
		if v := tx.Bucket(metaBucket).Get(versionKey); string(v) != "2" {
			t.Errorf("what was set aside has version %q", v)
		}
		return tx.Bucket(metaBucket).Put(versionKey, []byte("1"))
	})
	l.open(t, config)
}

func editDatabase(t *testing.T, l *lab, change func(*bbolt.Tx) error) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	editClosed(t, l.config.Root, change)
}

func editClosed(t *testing.T, root string, change func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(root, databaseFile), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOneBadImage: damage to one image is one image lost.
func TestOneBadImage(t *testing.T) {
	id := func(img Image) []byte { return []byte(img.ID) }
	for name, damage := range map[string]func(l *lab, tx *bbolt.Tx, img Image) error{
		"record": func(_ *lab, tx *bbolt.Tx, img Image) error { return tx.Bucket(recordsBucket).Put(id(img), []byte("{")) },
		"no names": func(_ *lab, tx *bbolt.Tx, img Image) error {
			return tx.Bucket(recordsBucket).Put(id(img), []byte("{}"))
		},
		"config": func(_ *lab, tx *bbolt.Tx, img Image) error {
			return tx.Bucket(configsBucket).Put(id(img), []byte("{}"))
		},
		"manifest": func(_ *lab, tx *bbolt.Tx, img Image) error { return tx.Bucket(manifestsBucket).Delete(id(img)) },
		"layer": func(l *lab, _ *bbolt.Tx, img Image) error {
			return os.Remove(filepath.Join(filepath.Dir(l.LayerPaths(img)[0]), "layer.json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.reg.Push("bad", "1", simple("bad"))
			l.reg.Push("good", "1", simple("good"))
			bad, good := l.pull(t, "bad:1"), l.pull(t, "good:1")
			editDatabase(t, l, func(tx *bbolt.Tx) error { return damage(l, tx, bad) })
			l.open(t, l.config)
			if list := l.List(); len(list) != 1 || list[0].ID != good.ID || l.content(t, good, "file") != "good" {
				t.Errorf("list %+v", list)
			}
			if !strings.Contains(l.log.String(), bad.ID) {
				t.Errorf("log %s", l.log)
			}
			if l.content(t, l.pull(t, "bad:1"), "file") != "bad" {
				t.Error("cannot be pulled again")
			}
		})
	}
}

const killRoot, killRef = "CRI_BOX_TEST_KILL_ROOT", "CRI_BOX_TEST_KILL_REF"

// TestMain is also the process that TestKill kills: it pulls and removes images
// without end, and the one that TestProxy starts.
func TestMain(m *testing.M) {
	if root := os.Getenv(proxyRoot); root != "" {
		os.Exit(pullProxied(root, os.Getenv(proxyCerts)))
	}
	root := os.Getenv(killRoot)
	if root == "" {
		os.Exit(m.Run())
	}
	s, err := Open(Config{Root: root, CertsDirs: []string{"/nonexistent"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		panic(err)
	}
	if err := s.Collect(); err != nil {
		panic(err)
	}
	fmt.Println("open")
	for i := 0; ; i++ {
		img, err := s.Pull(rootContext(), fmt.Sprintf("%s:%d", os.Getenv(killRef), i%3), nil, nil)
		if err != nil {
			panic(err)
		}
		fmt.Println("pull")
		if i%2 == 1 {
			if err := s.Remove(img.ID); err != nil {
				panic(err)
			}
		}
	}
}

// TestKill: killed at any moment, the store opens again, and what it lists is
// whole.
func TestKill(t *testing.T) {
	l := newLab(t)
	var built []*imagetest.Image
	for i := range 3 {
		b := imagetest.New().File("/base", 0o644, noise(300_000))
		for j := range 100 {
			b.File(fmt.Sprintf("/dir%d/file%d", j%7, j), 0o644, []byte(fmt.Sprint(i, j)))
		}
		img := b.Layer().File("/own", 0o644, noise(100_000+i)).Build()
		built = append(built, img)
		l.reg.Push("app", fmt.Sprint(i), img)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	defer func() { l.open(t, l.config) }()
	found := 0
	for range 12 {
		killOnce(t, l)
		s, err := Open(l.config)
		if err != nil {
			t.Fatal(err)
		}
		found += len(s.List())
		for _, img := range s.List() {
			if err := checkWhole(s, img, built); err != nil {
				t.Error(err)
			}
		}
		if err := s.Collect(); err != nil {
			t.Error(err)
		}
		used := map[digest.Digest]bool{}
		for _, img := range s.List() {
			for _, id := range img.Layers {
				used[id] = true
			}
		}
		if got := len(l.layerDirs(t)); got != len(used) {
			t.Errorf("%d layers on disk, %d in use", got, len(used))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if found == 0 {
		t.Error("no image was ever there: nothing was tested")
	}
	if strings.Contains(l.log.String(), "ERROR") {
		t.Errorf("log %s", l.log)
	}
}

func killOnce(t *testing.T, l *lab) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), killRoot+"="+l.config.Root, killRef+"="+l.ref("app"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1 + rand.IntN(6) {
		if _, err := io.ReadFull(out, make([]byte, len("pull\n"))); err != nil {
			t.Error(err)
		}
	}
	// A moment that nobody chose.
	<-time.After(time.Duration(rand.IntN(20_000)) * time.Microsecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // says that it was killed
}

// checkWhole compares an image's files with what was built.
func checkWhole(s *Store, img Image, built []*imagetest.Image) error {
	i := slices.IndexFunc(built, func(b *imagetest.Image) bool { return b.ID() == img.ID })
	if i < 0 {
		return fmt.Errorf("unknown image %s", img.ID)
	}
	paths := s.LayerPaths(img)
	own, err := os.ReadFile(filepath.Join(paths[0], "own"))
	if err != nil || string(own) != string(noise(100_000+i)) {
		return fmt.Errorf("image %d is not whole: %w", i, err)
	}
	files, err := filepath.Glob(filepath.Join(paths[1], "dir*", "file*"))
	if err != nil || len(files) != 100 {
		return fmt.Errorf("image %d has %d files: %w", i, len(files), err)
	}
	return nil
}
