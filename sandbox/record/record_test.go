package record

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

type thing struct {
	A string `json:"a"`
	B int    `json:"b"`
}

var kind = Kind{"thing", 2}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := thing{"x", 3}
	if err := kind.Save(dir, want); err != nil {
		t.Fatal(err)
	}
	var got thing
	if err := kind.Load(dir, &got); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := kind.Load(t.TempDir(), &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing record: %v", err)
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	if err := kind.Save(dir, thing{"x", 3}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{"empty": {}, "no body": good[:20]}
	for i := range good {
		cut := append([]byte{}, good[:i]...)
		cases["cut"] = cut
		flipped := append([]byte{}, good...)
		flipped[i] ^= 0x20
		cases["flipped"] = flipped
		for name, b := range cases {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			var got thing
			if err := kind.Load(dir, &got); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s at %d: %v, got %+v", name, i, err, got)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	dir := t.TempDir()
	var got thing
	if err := (Kind{"thing", 1}).Save(dir, thing{"old", 1}); err != nil {
		t.Fatal(err)
	}
	if err := kind.Load(dir, &got); err != nil {
		t.Errorf("an older record: %v", err)
	}
	for _, k := range []Kind{{"thing", 3}, {"other", 1}} {
		if err := k.Save(dir, thing{"new", 1}); err != nil {
			t.Fatal(err)
		}
		if err := kind.Load(dir, &got); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestQuarantine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "abc")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	to, err := Quarantine(dir, ErrCorrupt)
	if err != nil {
		t.Fatal(err)
	}
	if why, err := os.ReadFile(filepath.Join(to, WhyFile)); err != nil || string(why) != ErrCorrupt.Error()+"\n" {
		t.Errorf("reason %q, %v", why, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}
