package image

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestBrokenDatabase: whatever is in the file, the service starts, and layers
// are used again.
func TestBrokenDatabase(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"garbage": func(data []byte) []byte { return noise(len(data)) },
		"short":   func([]byte) []byte { return []byte("short") },
		"cut":     func(data []byte) []byte { return data[:2*os.Getpagesize()] },
		"no meta": func(data []byte) []byte { clear(data[:2*os.Getpagesize()]); return data },
		"pages": func(data []byte) []byte {
			for i := 2 * os.Getpagesize(); i < len(data); i++ {
				data[i] ^= 0xa5
			}
			return data
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			built := simple("x")
			l.reg.Push("app", "1", built)
			img := l.pull(t, "app:1")
			l.reopen(t, func(root string) {
				file := filepath.Join(root, databaseFile)
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, damage(data), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			if len(l.List()) != 0 || !strings.Contains(l.log.String(), "image database cannot be read") {
				t.Errorf("list %v, log %s", l.List(), l.log)
			}
			if again := l.pull(t, "app:1"); !reflect.DeepEqual(img, again) {
				t.Errorf("%+v", again)
			}
			if n := len(l.reg.Requests(built.Manifest.Layers[0].Digest.String())); n != 1 {
				t.Errorf("the layer was downloaded %d times", n)
			}
			l.reopen(t, func(string) {})
			if len(l.List()) != 1 {
				t.Error("the new database does not last")
			}
		})
	}
}

// TestDamagedPages: bytes of a page that are others keep nobody from starting. Places
// that lead out of the file, and pages in a circle, are among what comes of it.
func TestDamagedPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), databaseFile)
	db, err := newDatabase(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		img := stored{id: fmt.Sprint("image ", i), manifest: noise(600), config: noise(600)}
		if err := db.apply(change{add: &img, records: map[string]record{img.id: {Size: int64(i)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random, page := rand.New(rand.NewPCG(1, 2)), os.Getpagesize()
	broken := 0
	for range 200 {
		data := slices.Clone(whole)
		at := firstPage + random.IntN(len(data)/page-firstPage)
		for range 1 + random.IntN(8) {
			data[at*page+random.IntN(80)] = byte(random.Uint32())
		}
		broken += openDamaged(t, path, data)
	}
	if broken == 0 || broken == 200 {
		t.Errorf("%d of 200 files were taken for broken", broken)
	}
}

// openDamaged opens a database, reads all of it and tells whether it was set aside.
func openDamaged(t *testing.T, path string, data []byte) (broken int) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.all(func(string, error) {}); err != nil {
		t.Error(err)
	}
	if err := db.close(); err != nil {
		t.Error(err)
	}
	if os.Remove(path+".broken") == nil {
		return 1
	}
	return 0
}
