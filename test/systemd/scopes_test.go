package systemd_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	cgroups "github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"

// TestScopes is the systemd driver: slices, scopes, and limits that stay.
func TestScopes(t *testing.T) {
	i := install(t, "systemd")
	systemctl(t, "start", unit)
	i.Reconnect()
	config, err := i.Runtime.RuntimeConfig(i.Context(), &runtimeapi.RuntimeConfigRequest{})
	if err != nil || config.Linux.CgroupDriver != runtimeapi.CgroupDriver_SYSTEMD {
		t.Errorf("the driver is %v, %v", config, err)
	}
	own := i.RunPod()
	pods := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = slice })
	for name, pod := range map[string]*harness.Pod{"without a parent": own, "with the kubelet's": pods} {
		t.Run(name, func(t *testing.T) { scope(t, pod) })
	}
	t.Run("others' end", func(t *testing.T) { othersEnd(t, i.RunPod()) })
	t.Run("out of memory", func(t *testing.T) { outOfMemory(t, pods) })
	t.Run("out of memory, daemon away", func(t *testing.T) { outOfMemoryAway(t, pods) })
	t.Run("systemd hangs", func(t *testing.T) { hungSystemd(t, pods) })
	group := cgroup(t, own.Run("last", i.Image("busybox"), []string{"/bin/workload", "sleep-forever"}))
	for _, pod := range []*harness.Pod{own, pods} {
		pod.Stop()
		pod.Remove()
	}
	i.Wait("systemd to remove the pod's slice", func() bool { return !exists("/sys/fs/cgroup" + filepath.Dir(group)) })
	if !exists("/sys/fs/cgroup" + slice) {
		t.Error("the kubelet's slice is gone: it is the kubelet's to remove")
	}
	_, err = i.TryRunPod(i.PodConfig(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/kubepods/pod1" }))
	if err == nil || !strings.Contains(err.Error(), "must be a slice") {
		t.Errorf("a parent that is no slice: %v", err)
	}
}

// TestShortPods: pods that end before systemd was told of them, or while it does not
// answer, leave no slice, neither a directory nor a unit, also where the daemon ends
// just after them.
func TestShortPods(t *testing.T) {
	i := install(t, "systemd")
	systemctl(t, "start", unit)
	i.Reconnect()
	image := i.Image("busybox")
	var late string
	for range 5 {
		var slices []string
		for n := range 3 {
			pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
				c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			})
			c := pod.Run("c-"+strconv.Itoa(n), image, []string{"/bin/workload", "sleep-forever"})
			slices = append(slices, filepath.Base(filepath.Dir(cgroup(t, c))))
			pod.Stop()
			pod.Remove()
		}
		systemctl(t, "restart", unit)
		i.Reconnect()
		for _, slice := range slices {
			noSlice(t, i, slice)
			late = slice
		}
	}
	systemctl(t, "start", late) // as systemd does late what a daemon had asked for that was killed
	noSlice(t, i, late)
}

// noSlice waits until systemd and kernel have no such slice.
func noSlice(t *testing.T, i *harness.Instance, slice string) {
	t.Helper()
	path, err := cgroups.ParentSlice(slice)
	if err != nil {
		t.Fatal(err)
	}
	i.Wait("no slice "+slice, func() bool { return !exists("/sys/fs/cgroup"+path) && property(t, slice, "ActiveState") == "inactive" })
}

func scope(t *testing.T, pod *harness.Pod) {
	c := pod.Run("c", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(64<<20))
	scope := "cri-box-" + c.ID + ".scope"
	group := cgroup(t, c)
	if filepath.Base(group) != scope || !strings.HasSuffix(filepath.Dir(group), ".slice") {
		t.Errorf("its group is %s", group)
	}
	if pod.Config.Linux.CgroupParent != "" && filepath.Dir(group) != pod.Config.Linux.CgroupParent {
		t.Errorf("its group is %s, wanted below %s", group, pod.Config.Linux.CgroupParent)
	}
	pod.Wait("the scope", func() bool { return property(t, scope, "ActiveState") == "active" })
	check := func(when, memory string) {
		t.Helper()
		for what, got := range map[string]string{"memory.max": file(t, group, "memory.max"), "MemoryMax": property(t, scope, "MemoryMax")} {
			if got != memory {
				t.Errorf("%s %s is %s, wanted %s", when, what, got, memory)
			}
		}
		if got := file(t, group, "cpu.max"); got != "25000 100000" {
			t.Errorf("%s cpu.max is %s", when, got)
		}
		if got := file(t, group, "pids.max"); got != "max" {
			t.Errorf("%s pids.max is %s", when, got)
		}
	}
	check("at first", strconv.Itoa(64<<20))
	systemctl(t, "daemon-reload")
	check("after daemon-reload", strconv.Itoa(64<<20))
	if property(t, scope, "Delegate") != "yes" {
		t.Error("the scope is not delegated")
	}
	_, err := pod.Runtime.UpdateContainerResources(pod.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, MemorySwapLimitInBytes: 96 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	pod.Wait("systemd to know the new limit", func() bool { return property(t, scope, "MemoryMax") == strconv.Itoa(96<<20) })
	systemctl(t, "daemon-reload")
	check("after an update", strconv.Itoa(96<<20))
	if out := c.MustExec("echo", "hello"); out != "hello\n" {
		t.Errorf("exec says %q", out)
	}
	c.Stop(0)
	pod.Wait("the scope's end", func() bool { return property(t, scope, "ActiveState") == "inactive" })
	c.Remove()
}

// othersEnd: with the last scope of a slice systemd takes the controllers away from
// what is below it. A container that was made and is not started yet keeps its limits.
func othersEnd(t *testing.T, pod *harness.Pod) {
	first := pod.Run("first", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(64<<20))
	name := "cri-box-" + first.ID + ".scope"
	slice := filepath.Dir(cgroup(t, first))
	pod.Wait("the scope", func() bool { return property(t, name, "ActiveState") == "active" })
	second := pod.Create("second", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(48<<20))
	first.Stop(0)
	pod.Wait("systemd to take the memory controller away", func() bool {
		return !strings.Contains(file(t, slice, "cgroup.subtree_control"), "memory")
	})
	second.Start()
	pod.Wait("the scope", func() bool { return property(t, "cri-box-"+second.ID+".scope", "ActiveState") == "active" })
	for name, want := range map[string]string{"memory.max": strconv.Itoa(48 << 20), "cpu.max": "25000 100000", "cpu.weight": "59"} {
		if got := file(t, cgroup(t, second), name); got != want {
			t.Errorf("%s is %s, wanted %s", name, got, want)
		}
	}
	pod.Stop()
	pod.Remove()
}

// outOfMemory: systemd removes a scope's group as soon as its last process has
// ended; the kills in it were counted before, or are known from the slice.
func outOfMemory(t *testing.T, pod *harness.Pod) {
	for n := range 3 {
		c := pod.Run("oom-"+strconv.Itoa(n), pod.Image("busybox"), []string{"/bin/workload", "eat-memory", "200000000"}, memory(32<<20))
		if st := c.WaitExit(); st.Reason != "OOMKilled" {
			t.Errorf("it ended with %s %d %s", st.Reason, st.ExitCode, st.Message)
		}
		c.Remove()
	}
}

// outOfMemoryAway: several containers of one pod run out of memory at once, and one
// is killed by somebody, while there is no daemon: the keeper has counted.
func outOfMemoryAway(t *testing.T, pod *harness.Pod) {
	gate := t.TempDir()
	volume := func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: gate, ContainerPath: "/gate"})
	}
	wait := "until [ -e /gate/open ]; do sleep 0.1; done; exec /bin/workload eat-memory 200000000"
	var hungry []*harness.Container
	for n := range 4 {
		hungry = append(hungry, pod.Run("hungry-"+strconv.Itoa(n), pod.Image("busybox"), []string{"sh", "-c", wait}, memory(32<<20), volume))
	}
	killed := pod.Run("killed", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"})
	pids := []int{killed.PID()}
	for _, c := range hungry {
		pids = append(pids, c.PID())
	}
	systemctl(t, "stop", unit)
	for _, c := range hungry { // else the limit goes with the slice's other scopes
		if got := property(t, "cri-box-"+c.ID+".scope", "ActiveState"); got != "active" {
			t.Errorf("after the daemon's end the scope of %s is %s", c.Config.Metadata.Name, got)
		}
	}
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pod.Wait("the containers' end", func() bool { return !slices.ContainsFunc(pids, harness.Alive) })
	systemctl(t, "start", unit)
	pod.Reconnect()
	for _, c := range hungry {
		if st := c.WaitExit(); st.Reason != "OOMKilled" {
			t.Errorf("%s ended with %s %d %s", c.Config.Metadata.Name, st.Reason, st.ExitCode, st.Message)
		}
		c.Remove()
	}
	if st := killed.WaitExit(); st.Reason != "Error" || st.ExitCode != 137 {
		t.Errorf("what was killed ended with %s %d %s", st.Reason, st.ExitCode, st.Message)
	}
	killed.Remove()
}

// hungSystemd puts sockets that never answer in the place of systemd's: containers
// and commands start as ever, and scopes come when it answers again.
func hungSystemd(t *testing.T, pod *harness.Pod) {
	sockets := []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}
	own := pod.Instance.RunPod()
	first := own.Run("first", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(64<<20))
	pod.Wait("the scope", func() bool { return property(t, "cri-box-"+first.ID+".scope", "ActiveState") == "active" })
	before := pod.Run("before", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"})
	for _, path := range sockets {
		if err := os.Rename(path, path+".aside"); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // systemd's own is back there by then
		defer l.Close()
	}
	// A daemon that has a connection already would go on using it.
	killDaemon(t)
	pod.Reconnect()
	pod.Wait("another daemon", func() bool {
		_, err := pod.Runtime.Version(pod.Context(), &runtimeapi.VersionRequest{})
		return err == nil
	})
	c := pod.Run("during", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(64<<20))
	for _, one := range []*harness.Container{before, c} {
		if out := one.MustExec("echo", "hello"); out != "hello\n" {
			t.Errorf("exec says %q", out)
		}
	}
	// It takes away the controllers below a slice whose last scope it sees end.
	second := own.Run("second", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, limits(48<<20))
	gone := cgroup(t, first)
	first.Stop(0)
	pod.Wait("systemd to see the first one's end", func() bool { return !exists("/sys/fs/cgroup" + gone) })
	short := pod.Instance.RunPod()
	slice := filepath.Base(filepath.Dir(cgroup(t, short.Run("short", pod.Image("busybox"), []string{"/bin/workload", "sleep-forever"}))))
	short.Stop()
	short.Remove()
	for _, path := range sockets {
		if err := os.Rename(path+".aside", path); err != nil {
			t.Fatal(err)
		}
	}
	pod.Wait("the scope", func() bool { return property(t, "cri-box-"+c.ID+".scope", "ActiveState") == "active" })
	if got := file(t, cgroup(t, c), "memory.max"); got != strconv.Itoa(64<<20) {
		t.Errorf("memory.max is %s", got)
	}
	noSlice(t, pod.Instance, slice)
	pod.Wait("the scope", func() bool { return property(t, "cri-box-"+second.ID+".scope", "ActiveState") == "active" })
	if got := file(t, cgroup(t, second), "memory.max"); got != strconv.Itoa(48<<20) {
		t.Errorf("memory.max of the second one is %s", got)
	}
	own.Stop()
	own.Remove()
}

// killDaemon ends the daemon; systemd, which is well, starts another.
func killDaemon(t *testing.T) {
	t.Helper()
	pids, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		if at, _ := os.Readlink(p); strings.TrimSuffix(at, " (deleted)") != binary {
			continue
		}
		if args, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline")); strings.HasPrefix(string(args), binary+"\x00serve\x00") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// memory leaves out a limit of processor time, with which reclaim takes minutes here.
func memory(limit int64) harness.ContainerOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit, MemorySwapLimitInBytes: limit}
	}
}

func limits(memory int64) harness.ContainerOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: memory, MemorySwapLimitInBytes: memory, CpuQuota: 25000, CpuPeriod: 100000, CpuShares: 512}
	}
}

func cgroup(t *testing.T, c *harness.Container) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.PID()) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "0::")
}

func file(t *testing.T, group, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", group, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--value", "-p", name, unit).Output()
	if err != nil {
		t.Fatalf("systemctl show %s: %v", unit, err)
	}
	return strings.TrimSpace(string(out))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
