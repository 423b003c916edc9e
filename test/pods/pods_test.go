// Package pods_test proves what a pod is: every sentence about namespaces,
// processes, limits, logs, network and failure, asked over CRI and seen in /proc.
package pods_test

import (
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The images that tests run.
const (
	probe    = "probe"    // /bin/probe and /bin/workload, nothing else
	busybox  = "busybox"  // Debian's busybox-static
	workload = "workload" // the program's name in both
)

// sleeper is a command that runs until it is killed.
var sleeper = []string{"/bin/workload", "sleep-forever"}

// run is the workload's command line.
func run(verb ...string) []string { return append([]string{"/bin/workload"}, verb...) }

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// namespaces sets how a pod and, unless they say otherwise, its containers share.
// On the node's network the name is the node's, and the kubelet sends none.
func namespaces(network, pid, ipc runtimeapi.NamespaceMode) harness.PodOption {
	return func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: network, Pid: pid, Ipc: ipc}
		if network == modeNode {
			c.Hostname = ""
		}
	}
}

const (
	modePod       = runtimeapi.NamespaceMode_POD
	modeContainer = runtimeapi.NamespaceMode_CONTAINER
	modeNode      = runtimeapi.NamespaceMode_NODE
	modeTarget    = runtimeapi.NamespaceMode_TARGET
)

// security changes a container's security context.
func security(change func(*runtimeapi.LinuxContainerSecurityContext)) harness.ContainerOption {
	return func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) }
}
