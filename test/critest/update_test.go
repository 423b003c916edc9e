package critest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A limit is a field of LinuxContainerResources and where the kernel shows it.
type limit struct {
	field    string
	set      func(*runtimeapi.LinuxContainerResources)
	v1, v2   string // below /sys/fs/cgroup, as the container sees it
	on1, on2 string
}

var limits = []limit{
	{"cpu_shares", func(r *runtimeapi.LinuxContainerResources) { r.CpuShares = 2048 }, "cpu/cpu.shares", "cpu.weight", "2048", "174"},
	{"cpu_period", func(r *runtimeapi.LinuxContainerResources) { r.CpuPeriod = 50000 }, "cpu/cpu.cfs_period_us", "cpu.max", "50000", "30000 50000"},
	{"cpu_quota", func(r *runtimeapi.LinuxContainerResources) { r.CpuQuota = 30000 }, "cpu/cpu.cfs_quota_us", "cpu.max", "30000", "30000 50000"},
	{"cpuset_cpus", func(r *runtimeapi.LinuxContainerResources) { r.CpusetCpus = "0" }, "cpuset/cpuset.cpus", "cpuset.cpus", "0", "0"},
	{"cpuset_mems", func(r *runtimeapi.LinuxContainerResources) { r.CpusetMems = "0" }, "cpuset/cpuset.mems", "cpuset.mems", "0", "0"},
	{"memory_limit_in_bytes", func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 96 << 20 }, "memory/memory.limit_in_bytes", "memory.max", fmt.Sprint(96 << 20), fmt.Sprint(96 << 20)},
}

// show is a script that prints a limit from inside the container.
func (l limit) show() string {
	return fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", l.v1, l.v2)
}

func (l limit) check(t *testing.T, when string, c *container) {
	t.Helper()
	if got := c.sh(l.show()); got != l.on1 && got != l.on2 {
		t.Errorf("%s %s: the kernel has %q, want %q (v1) or %q (v2)", l.field, when, got, l.on1, l.on2)
	}
}

// says tells whether got has all that was asked for: a runtime may tell more.
func says(got, want *runtimeapi.LinuxContainerResources) bool {
	equal := got != nil
	want.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		equal = equal && got.ProtoReflect().Get(f).Equal(v)
		return equal
	})
	return equal
}

func (n *node) update(c *container, change func(*runtimeapi.LinuxContainerResources)) error {
	r := &runtimeapi.LinuxContainerResources{}
	change(r)
	_, err := n.runtime.UpdateContainerResources(n.ctx(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
	return err
}

// TestResources sets each limit when the container is made.
func TestResources(t *testing.T) {
	clause(t, "Resources specification for the container.")
	n := newNode(t)
	c := n.pod().run(func(c *runtimeapi.ContainerConfig) {
		for _, l := range limits {
			l.set(c.Linux.Resources)
		}
		c.Linux.Resources.OomScoreAdj = 500
	})
	for _, l := range limits {
		l.check(t, "at the start", c)
	}
	equal(t, "oom_score_adj", c.sh("cat /proc/1/oom_score_adj"), "500")
	if got, want := c.status().GetResources().GetLinux(), c.config.Linux.Resources; !says(got, want) {
		t.Errorf("the status has %v, want %v", got, want)
	}
}

// TestUpdateContainerResources changes one limit after the other; each stays.
func TestUpdateContainerResources(t *testing.T) {
	clause(t, "UpdateContainerResources updates ContainerConfig of the container synchronously.")
	n := newNode(t)
	c := n.pod().run(func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512, CpuQuota: 20000, CpuPeriod: 100000}
	})
	want := proto.Clone(c.config.Linux.Resources).(*runtimeapi.LinuxContainerResources)
	for _, l := range limits {
		if err := n.update(c, l.set); err != nil {
			t.Fatalf("%s: %v", l.field, err)
		}
		l.set(want)
		if got := c.status().GetResources().GetLinux(); !says(got, want) {
			t.Errorf("after %s the status has %v, want %v", l.field, got, want)
		}
	}
	for _, l := range limits {
		l.check(t, "after all updates", c)
	}
	if err := n.update(c, func(r *runtimeapi.LinuxContainerResources) { r.CpuQuota = -1 }); err != nil {
		t.Fatal(err)
	}
	unlimited := limit{field: "cpu_quota", v1: "cpu/cpu.cfs_quota_us", v2: "cpu.max", on1: "-1", on2: "max 50000"}
	if quota, _, _ := strings.Cut(c.sh(unlimited.show()), " "); quota != "-1" && quota != "max" {
		t.Errorf("without limit the kernel has the quota %q", quota)
	}
	// systemd writes a period of its own beside "max", which means nothing, for a moment.
	eventually(t, "the period", func() bool { got := c.sh(unlimited.show()); return got == unlimited.on1 || got == unlimited.on2 })
}

// TestUpdateOOMScoreAdj: of all processes, of exec'd ones, and raised only: no
// right is needed for that.
func TestUpdateOOMScoreAdj(t *testing.T) {
	clause(t, "OOMScoreAdj adjusts the oom-killer score. Default: 0 (not specified).")
	n := newNode(t)
	c := n.pod().run(script("sleep 1000000 & sleep 1000000"))
	eventually(t, "the child", func() bool {
		out, _ := c.exec("cat /proc/[0-9]*/comm 2>/dev/null | grep -c ^sleep") // which fails where there is none yet
		return out == "2"
	})
	if err := n.update(c, func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = 700 }); err != nil {
		t.Fatal(err)
	}
	for _, value := range strings.Fields(c.sh("for p in /proc/[0-9]*; do cat $p/oom_score_adj 2>/dev/null; done; true")) {
		equal(t, "oom_score_adj of a process", value, "700")
	}
	equal(t, "in the status", c.status().GetResources().GetLinux().GetOomScoreAdj(), 700)
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	clause(t, "If runtime fails to transactionally update the requested resources, an error is returned.")
	n := newNode(t)
	c := n.pod().run(func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512, OomScoreAdj: 100}
	})
	c.sh("dd if=/dev/zero of=/dev/shm/full bs=1M count=16") // no swap takes it away
	before := c.status().GetResources().GetLinux()
	shares := limit{v1: "cpu/cpu.shares", v2: "cpu.weight"}
	kernel := c.sh(shares.show())
	err := n.update(c, func(r *runtimeapi.LinuxContainerResources) {
		r.CpuShares, r.MemoryLimitInBytes, r.OomScoreAdj = 1024, 4<<20, 300
	})
	if err == nil {
		t.Error("a memory limit of 4 MiB over 16 MiB in use was accepted")
	}
	equal(t, "cpu shares", c.sh(shares.show()), kernel)
	equal(t, "memory limit", c.sh(limit{v1: "memory/memory.limit_in_bytes", v2: "memory.max"}.show()), fmt.Sprint(64<<20))
	equal(t, "oom_score_adj", c.sh("cat /proc/1/oom_score_adj"), "100")
	if got := c.status().GetResources().GetLinux(); !proto.Equal(got, before) {
		t.Errorf("the status has %v, want %v", got, before)
	}
}

// TestUpdateBeforeStart: a container that was made takes its limits along.
func TestUpdateBeforeStart(t *testing.T) {
	clause(t, "UpdateContainerResources updates ContainerConfig of the container synchronously.")
	n := newNode(t)
	c, err := n.pod().create()
	if err != nil {
		t.Fatal(err)
	}
	err = n.update(c, func(r *runtimeapi.LinuxContainerResources) {
		for _, l := range limits {
			l.set(r)
		}
		r.OomScoreAdj = 600
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	for _, l := range limits {
		l.check(t, "after the start", c)
	}
	equal(t, "oom_score_adj", c.sh("cat /proc/1/oom_score_adj"), "600")
}

func TestUpdateWhatDoesNotRun(t *testing.T) {
	clause(t, "UpdateContainerResources updates ContainerConfig of the container synchronously.")
	n := newNode(t)
	c := n.pod().run(command("/bin/true"))
	c.ended()
	shares := func(r *runtimeapi.LinuxContainerResources) { r.CpuShares = 512 }
	strict(t, "the limits of an exited container", n.update(c, shares))
	c.id = strings.Repeat("0", 64)
	hasCode(t, "an unknown container", n.update(c, shares), codes.NotFound)
}

// TestBadResources: nothing of a wrong request is done.
func TestBadResources(t *testing.T) {
	clause(t, "If runtime fails to transactionally update the requested resources, an error is returned.")
	n := newNode(t)
	c := n.pod().run()
	for field, set := range map[string]func(*runtimeapi.LinuxContainerResources){
		"cpu_period":    func(r *runtimeapi.LinuxContainerResources) { r.CpuPeriod = 1 },
		"cpu_quota":     func(r *runtimeapi.LinuxContainerResources) { r.CpuQuota = 1 },
		"cpuset_cpus":   func(r *runtimeapi.LinuxContainerResources) { r.CpusetCpus = "many" },
		"cpuset_mems":   func(r *runtimeapi.LinuxContainerResources) { r.CpusetMems = "-" },
		"oom_score_adj": func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = 1001 },
		"memory_swap_limit_in_bytes": func(r *runtimeapi.LinuxContainerResources) {
			r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 64<<20, 32<<20
		},
	} {
		err := n.update(c, func(r *runtimeapi.LinuxContainerResources) { r.CpuShares = 4096; set(r) })
		refused(t, "a wrong "+field, err)
		if got := c.status().GetResources().GetLinux().GetCpuShares(); got == 4096 {
			t.Errorf("a wrong %s: the rest was done", field)
		}
		if _, err := n.pod().try(func(c *runtimeapi.ContainerConfig) { set(c.Linux.Resources) }); err == nil {
			t.Errorf("a container with a wrong %s was started", field)
		}
	}
}

// TestHugepages: where the node can limit them.
func TestHugepages(t *testing.T) {
	clause(t, "List of HugepageLimits to limit the HugeTLB usage of container per page size.")
	n := newNode(t)
	c := n.pod().run(func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}}
	})
	show := "cat /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes /sys/fs/cgroup/hugetlb.2MB.max 2>/dev/null; true"
	had := c.sh(show)
	err := n.update(c, func(r *runtimeapi.LinuxContainerResources) {
		r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}
	})
	if had == "" { // this node does not limit them: then it has to say so
		strict(t, "hugepage_limits without the controller", err, "hugepage_limits", "page_size")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "limit before", had, "0")
	equal(t, "limit after", c.sh(show), fmt.Sprint(4<<20))
	equal(t, "entries in the status", len(c.status().Resources.Linux.HugepageLimits), 1)
	strict(t, "a page size that is none", n.update(c, func(r *runtimeapi.LinuxContainerResources) {
		r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "7MB", Limit: 4 << 20}}
	}), "page_size")
}

func TestUnified(t *testing.T) {
	clause(t, "Unified resources for cgroup v2.")
	n := newNode(t)
	set := func(r *runtimeapi.LinuxContainerResources) { r.Unified = map[string]string{"memory.low": "4194304"} }
	c, err := n.pod().try(func(c *runtimeapi.ContainerConfig) { set(c.Linux.Resources) })
	if _, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers"); v2 != nil {
		refused(t, "unified on cgroup v1", err, "unified")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "memory.low", c.sh("cat /sys/fs/cgroup/memory.low"), "4194304")
}

func TestMemorySwap(t *testing.T) {
	clause(t, "Memory swap limit in bytes. Default 0 (not specified).")
	n := newNode(t)
	c, err := n.pod().try(func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 64<<20, 96<<20
	})
	if _, absent := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"); absent != nil && filepathMissing("/sys/fs/cgroup/cgroup.controllers") {
		refused(t, "a swap limit on a node that does not count swap", err, "memory_swap_limit_in_bytes")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := c.sh("cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.swap.max")
	if got != fmt.Sprint(96<<20) && got != fmt.Sprint(32<<20) {
		t.Errorf("the swap limit is %s", got)
	}
}

func filepathMissing(path string) bool {
	_, err := os.Stat(filepath.Clean(path))
	return err != nil
}

// TestUpdatePodSandboxResources: the kubelet says what it has done.
func TestUpdatePodSandboxResources(t *testing.T) {
	clause(t, "UpdatePodSandboxResources synchronously updates the PodSandboxConfig with")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 10}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100}
	})
	r := &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: p.id, Overhead: &runtimeapi.LinuxContainerResources{CpuShares: 11},
		Resources: &runtimeapi.LinuxContainerResources{CpuShares: 210, MemoryLimitInBytes: 123 << 20}}
	for range 2 {
		if _, err := n.runtime.UpdatePodSandboxResources(n.ctx(), r); err != nil {
			t.Fatal(err)
		}
	}
	p.run() // the pod is as usable as before
	r.PodSandboxId = strings.Repeat("0", 64)
	_, err := n.runtime.UpdatePodSandboxResources(n.ctx(), r)
	hasCode(t, "an unknown pod", err, codes.NotFound)
}
