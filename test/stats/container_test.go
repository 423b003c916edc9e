package stats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// group is the kernel's directory of a container's group: of the v1 hierarchy
// with that controller where there is one, else of v2; without one of v2.
func group(t *testing.T, c *harness.Container, controller string) (dir string, v2 bool) {
	t.Helper()
	path := filepath.Join(c.Instance.Name, c.Pod.ID, c.ID)
	for _, root := range []struct {
		dir string
		v2  bool
	}{{"/sys/fs/cgroup/" + controller, controller == ""}, {"/sys/fs/cgroup/unified", true}, {"/sys/fs/cgroup", true}} {
		dir := filepath.Join(root.dir, path)
		if _, err := os.Stat(dir); err == nil {
			return dir, root.v2
		}
	}
	return c.Group(), true // a scope
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// field is the number after a name in one of the kernel's files.
func field(t *testing.T, file, name string) uint64 {
	t.Helper()
	for line := range strings.Lines(readFile(t, file)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			return number(t, f[1])
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func stats(t testing.TB, c *harness.Container) *runtimeapi.ContainerStats {
	t.Helper()
	resp, err := c.Runtime.ContainerStats(c.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Stats
}

func between(t *testing.T, what string, got, low, high uint64) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: got %d, wanted %d to %d", what, got, low, high)
	}
}

// cpuUsage is the processor time of the group in nanoseconds.
func cpuUsage(t *testing.T, c *harness.Container) uint64 {
	dir, v2 := group(t, c, "")
	if !v2 {
		t.Fatal("processor time is read from v2")
	}
	return field(t, filepath.Join(dir, "cpu.stat"), "usage_usec") * 1000
}

// TestCPU: the time is the kernel's, and the rate is that between the two samples
// that were given.
func TestCPU(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("spin", i.Image(probe), run("spin"), func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000}
	})
	c.WaitOutput("ready")
	before := cpuUsage(t, c)
	first := stats(t, c).Cpu
	between(t, "processor time", first.UsageCoreNanoSeconds.GetValue(), before, cpuUsage(t, c))
	var second *runtimeapi.CpuUsage
	i.Wait("a second to pass", func() bool {
		second = stats(t, c).Cpu
		return second.Timestamp-first.Timestamp >= int64(time.Second)
	})
	window := time.Duration(second.Timestamp - first.Timestamp)
	want := uint64(float64(second.UsageCoreNanoSeconds.Value-first.UsageCoreNanoSeconds.Value) / window.Seconds())
	between(t, "rate", second.UsageNanoCores.GetValue(), want-want/100, want+want/100) // the clock may be stepped a little
	if want == 0 || want > 300e6 {
		t.Errorf("with a fifth of a processor it uses %d nano cores", want)
	}
	if again := stats(t, c).Cpu; time.Duration(again.Timestamp-second.Timestamp) < time.Second && again.UsageNanoCores.Value != second.UsageNanoCores.Value {
		t.Errorf("there was another sample within a second: rate %d, then %d", second.UsageNanoCores.Value, again.UsageNanoCores.Value)
	}
	dir, _ := group(t, c, "")
	if _, err := os.Stat(filepath.Join(dir, "cpu.pressure")); err == nil && second.Psi.GetSome().GetTotal() == 0 {
		t.Errorf("a throttled container has no processor pressure: %v", second.Psi)
	}
}

// TestMemory: of a container that holds still all numbers are exactly the
// kernel's.
func TestMemory(t *testing.T) {
	const limit = 64 << 20
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), run("eat-memory", "10000000"), func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit}
	})
	c.WaitOutput("ate")
	dir, v2 := group(t, c, "memory")
	names := map[string]string{"usage": "memory.usage_in_bytes", "rss": "total_rss", "inactive": "total_inactive_file", "faults": "total_pgfault"}
	if v2 {
		names = map[string]string{"usage": "memory.current", "rss": "anon", "inactive": "inactive_file", "faults": "pgfault"}
	}
	stat := filepath.Join(dir, "memory.stat")
	usage := func() uint64 { return number(t, readFile(t, filepath.Join(dir, names["usage"]))) }
	low, faults := usage(), field(t, stat, names["faults"])
	got := stats(t, c).Memory
	// The kernel charges memory in batches: the usage may move a little by itself.
	const batch = 1 << 20
	high := usage()
	between(t, "usage", got.UsageBytes.GetValue(), min(low, high)-batch, max(low, high)+batch)
	between(t, "rss", got.RssBytes.GetValue(), 10000000, usage())
	between(t, "rss", got.RssBytes.GetValue(), field(t, stat, names["rss"])-batch, field(t, stat, names["rss"])+batch)
	between(t, "working set", got.WorkingSetBytes.GetValue(), got.UsageBytes.Value-field(t, stat, names["inactive"])-batch, got.UsageBytes.Value)
	between(t, "available", got.AvailableBytes.GetValue(), limit-got.WorkingSetBytes.Value, limit-got.WorkingSetBytes.Value)
	between(t, "page faults", got.PageFaults.GetValue(), faults, field(t, stat, names["faults"]))
	if age := time.Since(time.Unix(0, got.Timestamp)); age < 0 || age > time.Minute {
		t.Errorf("it was measured %v ago", age)
	}
	free := i.RunPod().Run("free", i.Image(probe), sleeper)
	if m := stats(t, free).Memory; m.AvailableBytes != nil {
		t.Errorf("without a limit %d bytes are available", m.AvailableBytes.Value)
	}
}

// TestWritableLayer: what a container wrote is told with its age, and no call
// waits for the walk.
func TestWritableLayer(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image("busybox"), []string{"/bin/busybox", "sleep", "100000"})
	var first *runtimeapi.FilesystemUsage
	i.Wait("the first walk", func() bool { first = stats(t, c).WritableLayer; return first != nil })
	const size = 3 << 20
	c.MustExec("/bin/busybox", "sh", "-c", fmt.Sprintf("dd if=/dev/zero of=/big bs=%d count=1; sync; ln /big /same; mkdir -p /a/b; echo x > /a/b/c", size))
	written := time.Now()
	var got *runtimeapi.FilesystemUsage
	i.Wait("a walk after the write", func() bool {
		got = stats(t, c).WritableLayer
		return got.Timestamp > written.UnixNano()
	})
	between(t, "bytes", got.UsedBytes.GetValue()-first.UsedBytes.GetValue(), size, size+1<<20)
	between(t, "files", got.InodesUsed.GetValue()-first.InodesUsed.GetValue(), 4, 4) // big (once), a, b, c
	if got.FsId.GetMountpoint() != i.Root {
		t.Errorf("it is on %q, wanted %q", got.FsId.GetMountpoint(), i.Root)
	}
	info, err := i.Images.ImageFsInfo(i.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	between(t, "the containers' file system", info.ContainerFilesystems[0].UsedBytes.GetValue(), got.UsedBytes.Value, got.UsedBytes.Value+1<<20)
	if info.ImageFilesystems[0].UsedBytes.GetValue() == info.ContainerFilesystems[0].UsedBytes.GetValue() {
		t.Error("images and containers use the same")
	}
}

// TestStatsOfEveryState: created, ended and removed containers, and none at all.
func TestStatsOfEveryState(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	made := pod.Create("made", i.Image(probe), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	})
	got := stats(t, made)
	if got.Cpu.GetTimestamp() == 0 || got.Memory.GetTimestamp() == 0 {
		t.Errorf("a created container has no numbers: %v", got)
	}
	if a := got.Attributes; a.GetId() != made.ID || a.GetMetadata().GetName() != "made" || a.GetLabels()["a"] != "b" || a.GetAnnotations()["c"] != "d" {
		t.Errorf("attributes: %v", a)
	}
	ended := pod.Run("ended", i.Image(probe), run("exit", "0"))
	ended.WaitExit()
	if got := stats(t, ended); got.Attributes.GetId() != ended.ID {
		t.Errorf("of an ended container: %v", got)
	}
	list := func(f *runtimeapi.ContainerStatsFilter) []string {
		resp, err := i.Runtime.ListContainerStats(i.Context(), &runtimeapi.ListContainerStatsRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		streamed := all(t, (*runtimeapi.StreamContainerStatsResponse).GetContainerStats, func() (grpc.ServerStreamingClient[runtimeapi.StreamContainerStatsResponse], error) {
			return i.Runtime.StreamContainerStats(i.Context(), &runtimeapi.StreamContainerStatsRequest{Filter: f})
		})
		name := func(s *runtimeapi.ContainerStats) string { return s.Attributes.Id }
		same(t, "streamed", ids(streamed, name), ids(resp.Stats, name))
		return ids(resp.Stats, name)
	}
	same(t, "all", list(nil), []string{made.ID, ended.ID})
	same(t, "by id", list(&runtimeapi.ContainerStatsFilter{Id: made.ID}), []string{made.ID})
	same(t, "by pod", list(&runtimeapi.ContainerStatsFilter{PodSandboxId: pod.ID}), []string{made.ID, ended.ID})
	same(t, "by no pod", list(&runtimeapi.ContainerStatsFilter{PodSandboxId: made.ID}), nil)
	same(t, "by label", list(&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"a": "b"}}), []string{made.ID})
	ended.Remove()
	same(t, "after a removal", list(nil), []string{made.ID})
	if _, err := i.Runtime.ContainerStats(i.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: ended.ID}); !isNotFound(err) {
		t.Errorf("of a removed container: %v", err)
	}
}
