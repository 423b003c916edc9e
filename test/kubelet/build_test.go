// Package kubelet_test runs a real kubelet on cri-box: standalone, with static
// pods, in the network namespace that the harness made. What pods do is asserted
// from outside: by the kernel, by files, by HTTP and by what the kubelet tells.
package kubelet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// linkFlags give the kubelet its version, which it has from the linker alone.
const linkFlags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=v1.37.2" +
	" -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=37"

func TestMain(m *testing.M) { harness.Main(m) }

// buildKubelet builds bin/kubelet; go build leaves it as it is when nothing changed.
var buildKubelet = sync.OnceValues(func() (path string, err error) {
	if path, err = filepath.Abs("bin/kubelet"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", linkFlags, "-o", path, "./kubelet")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
})

// prebuilt says whether the programs were built before, for a machine without Go:
// hack/vm/build.sh builds those of the harness.
func prebuilt() bool { return os.Getenv("CRIBOX_BIN") != "" }

// kubeletBinary returns the kubelet's path: $KUBELET, or what buildKubelet built.
func kubeletBinary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("KUBELET"); path != "" {
		return path
	}
	if path, err := filepath.Abs("bin/kubelet"); prebuilt() && err == nil {
		return path
	}
	path, err := buildKubelet()
	if err != nil {
		t.Fatalf("cannot build the kubelet: %v", err)
	}
	return path
}

// TestKubeletBuilds is for those who want to wait for it before all else.
func TestKubeletBuilds(t *testing.T) {
	out, err := exec.Command(kubeletBinary(t), "--version").CombinedOutput()
	if err != nil || string(out) != "Kubernetes v1.37.2\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}
