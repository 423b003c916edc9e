package critest_test

import (
	"fmt"
	"go/ast"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// scores.txt says what another runtime scored when the suite ran against it, and
// on what; docs/conformance.md is made from it and from the tests:
//
//	go test ./test/critest -run TestScores -update
const (
	scoresFile = "scores.txt"
	scoresDoc  = "../../docs/conformance.md"
)

type score struct{ verdict, how string }

func readScores(t *testing.T) (scores map[string]score, runtime, where string) {
	t.Helper()
	text, err := os.ReadFile(scoresFile)
	if err != nil {
		t.Fatal(err)
	}
	scores = map[string]score{}
	for line := range strings.Lines(string(text)) {
		body, how, _ := strings.Cut(strings.TrimSpace(line), "# ")
		name, rest, _ := strings.Cut(strings.TrimSpace(body), " ")
		rest = strings.TrimSpace(rest)
		switch {
		case name == "":
		case name == "runtime":
			runtime = rest
		case name == "where":
			where = rest
		case scores[name].verdict != "", rest != "passes" && rest != "fails", (rest == "fails") != (how != ""):
			t.Fatalf("%s: cannot read %q, or it is there twice", scoresFile, line)
		default:
			scores[name] = score{rest, how}
		}
	}
	return scores, runtime, where
}

// quotes are the API's words that each test asserts, by the test's name.
func quotes(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range testFunctions(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			if text, ok := quoted(t, n); ok {
				out[f.Name.Name] = text
			}
			return true
		})
	}
	return out
}

// TestScores fails for a test that the document does not have.
func TestScores(t *testing.T) {
	scores, runtime, where := readScores(t)
	tests := quotes(t)
	for name := range scores {
		if tests[name] == "" {
			t.Errorf("%s: there is no test %s that quotes the API", scoresFile, name)
		}
	}
	passed := 0
	var rows strings.Builder
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		s, ok := scores[name]
		if !ok {
			t.Errorf("%s: %s has no line", scoresFile, name)
		}
		result := "passes"
		if s.verdict == "passes" {
			passed++
		} else {
			result = "**fails**: " + s.how
		}
		fmt.Fprintf(&rows, "| %s | %s | %s |\n", name, strings.ReplaceAll(tests[name], "|", "\\|"), result)
	}
	if !t.Failed() {
		checkDoc(t, scoresDoc, "TestScores", fmt.Sprintf(scoresText, len(tests), runtime, where, passed, len(tests), rows.String()))
	}
}

const scoresText = "# Conformance: what is asked, and who passes\n" + `
Two suites ask cri-box whether it does what the CRI says.

## Upstream's critest

    CRITEST=/path/to/critest make critest          # RUNS=3 for three runs, each in an order of its own

It runs every spec twice: with streams over SPDY and over WebSocket. Images come from a registry in the
test itself, built from Debian's busybox and nginx; IMAGES=upstream uses the real ones. A failed spec
fails the run, and so does a skipped one that is not on the list in test/critest/upstream/skips.go, or one
on that list that is skipped no longer:

| not run | why |
|---|---|
| benchmarks | measurements, not tests |
| NRI | there is no NRI here |
| AppArmor | where the machine has none |
| an image by digest | only where the binary names upstream's own, which nobody else can make; it runs with IMAGES=upstream |

## The project's own suite

    go test ./test/critest                                          # a private cri-box; part of make test
    go test ./test/critest -endpoint unix:///run/some/runtime.sock  # any other on this host, as root

%d tests, each of which quotes the sentence of api.proto that it asserts and looks at the effect in the
container, in /proc, or in the reply. Where the API says that something is an error, any error will do; that it names the
field, and that requests are refused which the API says nothing about, is asked of cri-box only. With -endpoint, -restart
says how that runtime is restarted.

cri-box passes all of them. For comparison, and to test the tests, they were run against
%s (%s), which passes %d of %d:

| test | the API's words | containerd |
|---|---|---|
%s`
