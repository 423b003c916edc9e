package keeper

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEarlierForms reads the state that a keeper of each earlier version leaves to
// its next binary, and what it and its daemon say to each other. These files are
// never written anew: a later version gets files of its own.
func TestEarlierForms(t *testing.T) {
	for v := 1; v <= handoverVersion; v++ {
		name := filepath.Join("testdata", fmt.Sprintf("handover-%d.json", v))
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		state, err := readHandover(fd)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, _ := os.ReadFile(name)
		nothingLost(t, name, text, state)
	}
	for v := 1; v <= Version; v++ {
		name := filepath.Join("testdata", fmt.Sprintf("protocol-%d.jsonl", v))
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			m := new(message)
			if err := json.Unmarshal([]byte(line), m); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			nothingLost(t, name, []byte(line), m)
		}
	}
}

// nothingLost wants everything that was read from text in v, under the same name.
func nothingLost(t *testing.T, name string, text []byte, v any) {
	t.Helper()
	again, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var was, is any
	if err := json.Unmarshal(text, &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &is); err != nil {
		t.Fatal(err)
	}
	if lost := missing("", was, is); lost != "" {
		t.Errorf("%s: %s is lost\n%s", name, lost, text)
	}
}

// missing names the first of was that is not in is.
func missing(at string, was, is any) string {
	switch was := was.(type) {
	case map[string]any:
		is, _ := is.(map[string]any)
		for key, value := range was {
			if lost := missing(at+"."+key, value, is[key]); lost != "" {
				return lost
			}
		}
	case []any:
		is, _ := is.([]any)
		for n, value := range was {
			if n >= len(is) {
				return fmt.Sprintf("%s[%d]", at, n)
			}
			if lost := missing(fmt.Sprintf("%s[%d]", at, n), value, is[n]); lost != "" {
				return lost
			}
		}
	default:
		if !reflect.DeepEqual(was, is) {
			return at
		}
	}
	return ""
}

// TestLaterForm: a binary refuses the state of a later version, and takes one with
// fields that it does not know.
func TestLaterForm(t *testing.T) {
	for text, want := range map[string]string{
		fmt.Sprintf(`{"version":%d,"peer":-1,"seq":1,"items":[]}`, handoverVersion+1):       "it has version",
		fmt.Sprintf(`{"version":%d,"peer":-1,"seq":1,"items":[],"new":1}`, handoverVersion): "",
	} {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = readHandover(fd)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
