package metrics

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

const page = "../../../docs/metrics.md"

const intro = `# Metrics

` + "`[metrics] address = \"127.0.0.1:9437\"`" + ` has the daemon answer ` + "`GET /metrics`" + ` there in Prometheus' text form; without
it, only its own socket does: ` + "`curl --unix-socket /run/cri-box/admin.sock http://cri-box/metrics`" + `. Times are in seconds,
sizes in bytes. Beside these there are client_golang's own for the process and the Go runtime (` + "`process_`, `go_`" + `).

`

// TestPage: the documentation has every metric, with its meaning.
func TestPage(t *testing.T) {
	want := intro + Table()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what the table says: go test ./cmd/cri-box/metrics -update", page)
	}
}

// TestAllAreCollected: a scrape has every metric of the table, given something to
// tell of each.
func TestAllAreCollected(t *testing.T) {
	counts := map[string]float64{}
	for _, e := range metrics {
		if len(e.labels) == 0 && e.name != "cri_box_pulls_in_progress" && e.name != "cri_box_pulled_bytes_total" {
			counts[e.name] = 1
		}
	}
	m := New(Sources{
		Objects: func() []Object { return []Object{{Kind: "pod", State: "ready", Stage: "attach network"}} },
		Counts:  func() map[string]float64 { return counts },
		Kept:    func() map[string]int { return map[string]int{"pod": 1} },
		Pulls:   func() Pulls { return Pulls{} },
	})
	m.begin("/runtime.v1.RuntimeService/Version")(nil)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range families {
		have[f.GetName()] = true
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
	}
	for _, e := range metrics {
		if !have[e.name] {
			t.Errorf("a scrape has no %s", e.name)
		}
	}
}
