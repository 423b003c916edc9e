package pods_test

import (
	"os"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPrivilegedSeesNewDevices: what was plugged in after the daemon's start.
func TestPrivilegedSeesNewDevices(t *testing.T) {
	i := harness.New(t)
	node := "/dev/" + i.Name // a name that nobody else has
	t.Cleanup(func() { os.Remove(node) })
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	image := i.Image(busybox)
	all := pod.Run("all", image, sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
	equal(t, "its number", all.MustExec("/bin/stat", "-c", "%t:%T", node), "1:3\n")
	plain := pod.Run("plain", image, sleeper)
	equal(t, "code without privileges", exec(t, plain, 0, "/bin/test", "-e", node).Code, 1)
}
