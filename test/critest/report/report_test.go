package report

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What ginkgo writes, cut to what is read.
const sample = `[{"SpecReports": [
	{"LeafNodeType": "BeforeSuite", "State": "passed"},
	{"ContainerHierarchyTexts": ["[k8s.io] Networking"], "LeafNodeType": "It", "LeafNodeText": "should route", "State": "passed"},
	{"ContainerHierarchyTexts": ["[k8s.io] NRI"], "LeafNodeType": "It", "LeafNodeText": "should plug", "State": "skipped",
		"Failure": {"Message": "no socket", "Location": {"FileName": "/src/pkg/nri.go", "LineNumber": 7}}},
	{"ContainerHierarchyTexts": ["[k8s.io] Streaming"], "LeafNodeType": "It", "LeafNodeText": "should attach", "State": "timedout",
		"Failure": {"Message": "too long", "Location": {"FileName": "a.go", "LineNumber": 1}}},
	{"LeafNodeType": "AfterSuite", "State": "panicked"}
]}]`

func readText(t *testing.T, text string) (Result, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestRead(t *testing.T) {
	r, err := readText(t, sample)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Passed) != 1 || len(r.Failed) != 2 || len(r.Skipped) != 1 {
		t.Fatalf("got %d passed, %d failed, %d skipped, want 1, 2 and 1", len(r.Passed), len(r.Failed), len(r.Skipped))
	}
	if got, want := r.Skipped[0].Name(), "[k8s.io] NRI should plug"; got != want {
		t.Errorf("name %q, want %q", got, want)
	}
	if got, want := r.Skipped[0].Why(), "no socket (nri.go:7)"; got != want {
		t.Errorf("why %q, want %q", got, want)
	}
}

// A suite that never came to its specs must not count as one without failures.
func TestReadNothingRan(t *testing.T) {
	for _, text := range []string{``, `[]`, `[{"SpecReports": []}]`, `[{"SpecReports": [{"LeafNodeType": "It", "State": "skipped"}]}]`} {
		if _, err := readText(t, text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestUnexpected(t *testing.T) {
	r, err := readText(t, sample)
	if err != nil {
		t.Fatal(err)
	}
	if got := Unexpected(r.Skipped, []Skip{{Spec: "NRI"}, {Spec: "AppArmor", Host: true}}); got != nil {
		t.Errorf("all is on the list, but: %v", got)
	}
	got := Unexpected(r.Skipped, []Skip{{Spec: "Streaming"}})
	slices.Sort(got)
	if len(got) != 2 || !strings.Contains(got[0], `"Streaming"; take it off`) || !strings.Contains(got[1], "NRI should plug: no socket") {
		t.Errorf("got %q", got)
	}
}
