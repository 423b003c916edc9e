// Package streams_test proves exec, attach and port-forward, by SPDY and
// WebSocket, and the logs, against a running daemon.
package streams_test

import (
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	probe   = "probe"   // /bin/workload
	busybox = "busybox" // Debian's busybox-static, and /bin/workload
)

var sleeper = []string{"/bin/workload", "sleep-forever"}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func run(verb ...string) []string { return append([]string{"/bin/workload"}, verb...) }

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func stdin(c *runtimeapi.ContainerConfig)     { c.Stdin = true }
func stdinOnce(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }
func tty(c *runtimeapi.ContainerConfig)       { c.Stdin, c.Tty = true, true }
