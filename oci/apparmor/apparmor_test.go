package apparmor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIsLoaded: names with blanks, of other namespaces and of parts of names.
func TestIsLoaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profiles")
	list := "cri-box-default (enforce)\nweb (complain)\nmy profile (kill)\n:ns://inner (enforce)\n/usr/bin/man (enforce)\n"
	if err := os.WriteFile(file, []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"cri-box-default": true, "web": true, "my profile": true, "/usr/bin/man": true,
		"my": false, "we": false, "inner": false, "web (complain)": false, "": false} {
		if got, err := isLoaded(file, name); got != want || err != nil {
			t.Errorf("%q is loaded: %v, %v", name, got, err)
		}
	}
	if _, err := isLoaded(file+".missing", "web"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kernel without the list gives %v", err)
	}
}

// TestText: what the system has is included, nothing else is.
func TestText(t *testing.T) {
	bare := text(t.TempDir())
	if !strings.HasPrefix(bare, "@{PROC}=/proc/\n") || strings.Contains(bare, "include") || strings.Contains(bare, "%") {
		t.Errorf("without any files it is\n%s", bare)
	}
	dir := t.TempDir()
	for _, name := range []string{"abi/3.0", "tunables/global", "abstractions/base"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	whole := text(dir)
	for _, want := range []string{"abi <abi/3.0>,\ninclude <tunables/global>\n", "{\n  include <abstractions/base>\n", "profile cri-box-default flags="} {
		if !strings.Contains(whole, want) {
			t.Errorf("no %q in\n%s", want, whole)
		}
	}
}
