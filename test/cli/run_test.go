package cli_test

import (
	"os/exec"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// run runs the product outside any instance and returns all it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(harness.CriBox(t), args...).CombinedOutput()
	return string(out), err
}
