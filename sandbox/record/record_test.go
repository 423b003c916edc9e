package record

import (
	"errors"
	"fmt"
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

// A change goes behind what is there; a file that has grown is made anew.
func TestChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	var one, most int64
	for n := range 30 {
		if err := kind.Save(dir, thing{"x", 100 + n}); err != nil {
			t.Fatal(err)
		}
		var got thing
		if err := kind.Load(dir, &got); err != nil || got.B != 100+n {
			t.Fatalf("change %d: %+v, %v", n, got, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			one = info.Size()
		}
		most = max(most, info.Size())
	}
	if most < 4*one || most > (entries+1)*one {
		t.Errorf("one has %d bytes, the file had up to %d", one, most)
	}
}

// Wherever the last change is torn, what was before it holds, and the next one is read.
func TestTornChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	save := func(n int) []byte {
		t.Helper()
		if err := kind.Save(dir, thing{"x", n}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	holds := func(what string, n int) {
		t.Helper()
		var got thing
		if err := kind.Load(dir, &got); err != nil || got.B != n {
			t.Fatalf("%s: %+v, %v: want %d", what, got, err, n)
		}
	}
	first, second := save(1), save(2)
	for cut := len(first); cut < len(second); cut++ {
		for how, tail := range map[string][]byte{"cut": nil, "zeros": make([]byte, len(second)-cut)} {
			if err := os.WriteFile(path, append(second[:cut:cut], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			holds(fmt.Sprintf("%s at %d", how, cut), 1)
			save(3)
			holds(fmt.Sprintf("after %s at %d", how, cut), 3)
		}
	}
	// Two that are damaged are no accident of the last write.
	second[len(first)-3] ^= 1
	if err := os.WriteFile(path, second[:len(second)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	var got thing
	if err := kind.Load(dir, &got); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, got %+v", err, got)
	}
}

// A change of a later version is not passed over for what was before it.
func TestLaterChange(t *testing.T) {
	dir := t.TempDir()
	for _, k := range []Kind{kind, {kind.Name, kind.Version + 1}} {
		if err := k.Save(dir, thing{"x", 1}); err != nil {
			t.Fatal(err)
		}
	}
	var got thing
	if err := kind.Load(dir, &got); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, got %+v", err, got)
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
