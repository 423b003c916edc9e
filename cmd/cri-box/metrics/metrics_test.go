package metrics

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
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

// TestDashboard: docs/grafana.json asks for metrics that there are.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`cri_box_[a-z_]+`)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			for _, name := range names.FindAllString(target.Expr, -1) {
				plain := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
				if !slices.ContainsFunc(metrics, func(e entry) bool { return e.name == name || e.name == plain }) {
					t.Errorf("%s asks for %s, which there is not", p.Title, name)
				}
			}
		}
	}
	if len(board.Panels) < 10 {
		t.Errorf("%d panels", len(board.Panels))
	}
}
