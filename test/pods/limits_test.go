package pods_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupFile returns a file of the container's cgroup: of the v1 hierarchy with
// that controller where there is one, else of v2.
func cgroupFile(t *testing.T, c *harness.Container, controller, v1, v2 string) string {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(readFile(t, filepath.Join("/proc", strconv.Itoa(c.PID()), "cgroup"))), "\n") {
		f := strings.SplitN(line, ":", 3)
		if f[1] == controller {
			return filepath.Join("/sys/fs/cgroup", controller, f[2], v1)
		}
	}
	return filepath.Join(c.Group(), v2)
}

// TestCgroupNames: the leaf is the container's id, under the pod's group.
func TestCgroupNames(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	want := "/" + i.Name + "/" + c.Pod.ID + "/" + c.ID
	if harness.BySystemd() {
		want = ".slice/cri-box-" + c.ID + ".scope"
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if file := cgroupFile(t, c, controller, "cgroup.procs", "cgroup.procs"); !strings.Contains(file, want) {
			t.Errorf("the %s group is %s, wanted %s in it", controller, file, want)
		}
	}
}

func TestCPULimitThrottles(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("spin", i.Image(probe), run("spin"), resources(func(r *runtimeapi.LinuxContainerResources) {
		r.CpuPeriod, r.CpuQuota, r.CpuShares = 100000, 20000, 512
	}))
	c.WaitOutput("ready")
	stat := cgroupFile(t, c, "cpu", "cpu.stat", "cpu.stat")
	i.Wait("10 throttled periods", func() bool { return statField(t, stat, "nr_throttled") >= 10 })
	begin, used := time.Now(), cpuTime(t, c.PID())
	i.Wait("20 more", func() bool { return statField(t, stat, "nr_throttled") >= 30 })
	share := float64(cpuTime(t, c.PID())-used) / float64(time.Since(begin))
	if share < 0.05 || share > 0.4 {
		t.Errorf("with a fifth of a processor it used %.0f %%", share*100)
	}
}

func statField(t *testing.T, file, field string) int {
	t.Helper()
	for _, line := range strings.Split(readFile(t, file), "\n") {
		if name, value, ok := strings.Cut(line, " "); ok && name == field {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", file, field)
	return 0
}

// cpuTime is what a process has used, proc_pid_stat(5) fields 14 and 15.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat := readFile(t, filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	f := strings.Fields(stat[strings.LastIndex(stat, ") ")+2:])
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick
}

// TestMemoryLimit: what is above it does not go to swap either.
func TestMemoryLimit(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), run("eat-memory", "10000000"), resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes = 64 << 20
	}))
	c.WaitOutput("ate")
	got := strings.TrimSpace(readFile(t, cgroupFile(t, c, "memory", "memory.limit_in_bytes", "memory.max")))
	equal(t, "limit", got, strconv.Itoa(64<<20))
	equal(t, "reported limit", c.Status().Resources.Linux.MemoryLimitInBytes, 64<<20)
	file := cgroupFile(t, c, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
	swap, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return // this kernel does not count swap
	}
	want := strconv.Itoa(64 << 20) // with memory
	if filepath.Base(file) == "memory.swap.max" {
		want = "0"
	}
	equal(t, "limit of swap", strings.TrimSpace(string(swap)), want)
}

// TestUpdateThatCannotBeRecorded: limits that cannot be recorded do not stay, also
// where there were none before.
func TestUpdateThatCannotBeRecorded(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	limits := func() (all []string) {
		for _, file := range []string{cgroupFile(t, c, "memory", "memory.limit_in_bytes", "memory.max"), cgroupFile(t, c, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
			cgroupFile(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"), cgroupFile(t, c, "cpu", "cpu.shares", "cpu.weight"), filepath.Join("/proc", itoa(c.PID()), "oom_score_adj")} {
			text, _ := os.ReadFile(file) // a kernel may not count swap
			all = append(all, strings.TrimSpace(string(text)))
		}
		return all
	}
	before := limits()
	if err := os.Mkdir(filepath.Join(i.Root, "containers", c.ID, "config.json.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := i.Runtime.UpdateContainerResources(i.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, OomScoreAdj: 900}})
	if err == nil || !strings.Contains(err.Error(), "cannot write spec") {
		t.Errorf("an update that cannot be recorded: %v", err)
	}
	if after := limits(); !slices.Equal(after, before) {
		t.Errorf("the limits are %q, they were %q", after, before)
	}
}

// TestOOMScoreAdj asks for a higher value, which needs no right.
func TestOOMScoreAdj(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper, resources(func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = 900 }))
	equal(t, "oom_score_adj", strings.TrimSpace(readFile(t, filepath.Join("/proc", strconv.Itoa(c.PID()), "oom_score_adj"))), "900")
}

// TestPodCgroupParent: the kubelet's group is used and not removed.
func TestPodCgroupParent(t *testing.T) {
	i := harness.New(t)
	parent, scope := "/"+i.Name+"-kubepods/pod1", ""
	if harness.BySystemd() {
		slice := strings.ReplaceAll(i.Name, "-", "")
		parent, scope = "/"+slice+".slice/"+slice+"-pod1.slice", "cri-box-"
	}
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = parent })
	c := pod.Run("c", i.Image(probe), sleeper)
	if got := readFile(t, filepath.Join("/proc", strconv.Itoa(c.PID()), "cgroup")); !strings.Contains(got, parent+"/"+scope+c.ID) {
		t.Errorf("the container's cgroups are\n%swanted %s/%s%s", got, parent, scope, c.ID)
	}
	c.Stop(0)
	pod.Remove()
	removeGroups(t, parent, filepath.Dir(parent))
}

// removeGroups does what the kubelet does to its own groups.
func removeGroups(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		found, err := filepath.Glob("/sys/fs/cgroup/*" + name)
		if err != nil {
			t.Fatal(err)
		}
		if v2 := "/sys/fs/cgroup" + name; len(found) == 0 { // v2 alone
			if _, err := os.Stat(v2); err == nil {
				found = append(found, v2)
			}
		}
		if len(found) == 0 {
			t.Errorf("%s is gone: it is the kubelet's to remove", name)
		}
		for _, dir := range found {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
}
