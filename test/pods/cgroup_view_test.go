package pods_test

import (
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCgroupView: a container sees its own limits at /sys/fs/cgroup, in a cgroup
// namespace of its own, and can change nothing there.
func TestCgroupView(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper, resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 64 << 20 }))
	limit := c.MustExec("sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true")
	equal(t, "limit as the container sees it", limit, "67108864\n")
	for _, line := range strings.Split(strings.TrimSpace(c.MustExec("cat", "/proc/1/cgroup")), "\n") {
		if !strings.HasSuffix(line, ":/") {
			t.Errorf("its first process is in %s, wanted /", line)
		}
	}
	for _, try := range []string{"mkdir /sys/fs/cgroup/own", "mkdir /sys/fs/cgroup/memory/own", "echo 1 >/sys/fs/cgroup/cgroup.procs"} {
		if r, err := c.Exec(0, "sh", "-c", try); err == nil && r.Code == 0 {
			t.Errorf("%q works", try)
		}
	}
}
