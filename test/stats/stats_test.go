// Package stats_test proves that the numbers a node is run by are the kernel's:
// stats, metrics, lists and events, asked over CRI and compared with the kernel's
// own files.
package stats_test

import (
	"strconv"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const probe = "probe" // the image with /bin/workload

// sleeper is a command that runs until it is killed.
var sleeper = []string{"/bin/workload", "sleep-forever"}

func run(verb ...string) []string { return append([]string{"/bin/workload"}, verb...) }

func itoa(n int) string { return strconv.Itoa(n) }

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
