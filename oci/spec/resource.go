package spec

import (
	"maps"
	"regexp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources translates the cgroup limits of a request; r may be nil. It serves
// CreateContainer and UpdateContainerResources. Device rules and the pids limit
// are not among them. What the kernel would refuse or host cannot limit is
// ErrInvalid, except that a limit of 0 on a page size without controller, which
// the kubelet always sends, is dropped.
func Resources(r *runtimeapi.LinuxContainerResources, host Host) (*specs.LinuxResources, error) {
	if err := checkResources(r); err != nil {
		return nil, err
	}
	if swap := r.GetMemorySwapLimitInBytes(); swap > 0 && swap > r.GetMemoryLimitInBytes() && !host.Swap {
		return nil, invalid("linux.resources.memory_swap_limit_in_bytes %d: this node does not account swap; leave it 0", swap)
	}
	out := &specs.LinuxResources{CPU: cpu(r), Memory: memory(r, host)}
	for i, h := range r.GetHugepageLimits() {
		if !slices.Contains(host.HugePageSizes, h.GetPageSize()) {
			if h.GetLimit() == 0 {
				continue
			}
			return nil, invalid("linux.resources.hugepage_limits[%d].page_size %q: the node limits %q", i, h.GetPageSize(), host.HugePageSizes)
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	if len(r.GetUnified()) > 0 {
		if !host.CgroupV2 {
			return nil, invalid("linux.resources.unified needs cgroup v2, and this node limits with cgroup v1")
		}
		out.Unified = maps.Clone(r.GetUnified())
	}
	return out, nil
}

func cpu(r *runtimeapi.LinuxContainerResources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := r.GetCpuShares(); v > 0 {
		shares := uint64(v)
		c.Shares = &shares
	}
	if v := r.GetCpuPeriod(); v > 0 {
		period := uint64(v)
		c.Period = &period
	}
	if v := r.GetCpuQuota(); v != 0 {
		c.Quota = &v
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

// memory sets swap, which in the runtime-spec is memory and swap together, equal
// to memory unless the request says otherwise: a limit must not become swapping.
func memory(r *runtimeapi.LinuxContainerResources, host Host) *specs.LinuxMemory {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if limit == 0 && (swap == 0 || !host.Swap) {
		return nil
	}
	var m specs.LinuxMemory
	if limit != 0 {
		m.Limit = &limit
	}
	if swap == 0 {
		swap = limit
	}
	if host.Swap {
		m.Swap = &swap
	}
	return &m
}

var (
	cpuList     = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)
	pageSize    = regexp.MustCompile(`^[1-9][0-9]*[KMG]B$`)
	unifiedName = regexp.MustCompile(`^(cpu|cpuset|memory|io|pids|hugetlb|rdma|misc)(\.[A-Za-z0-9_]+)+$`)
)

// The kernel's bounds on CFS bandwidth, in microseconds (kernel/sched/core.c).
const (
	minCFS = 1000
	maxCFS = 1000000
)

func checkResources(r *runtimeapi.LinuxContainerResources) error {
	var wrong findings
	const at = "linux.resources."
	if p := r.GetCpuPeriod(); p != 0 && (p < minCFS || p > maxCFS) {
		wrong.add(at+"cpu_period %d is not 0 or between %d and %d microseconds", p, minCFS, maxCFS)
	}
	if q := r.GetCpuQuota(); q < -1 || q > 0 && q < minCFS {
		wrong.add(at+"cpu_quota %d is not -1 (unlimited), 0 or at least %d microseconds", q, minCFS)
	}
	if s := r.GetCpuShares(); s < 0 {
		wrong.add(at+"cpu_shares %d is negative", s)
	}
	checkMemory(r, &wrong)
	if adj := r.GetOomScoreAdj(); adj < -1000 || adj > 1000 {
		wrong.add(at+"oom_score_adj %d is not between -1000 and 1000", adj)
	}
	checkCPUList("cpuset_cpus", r.GetCpusetCpus(), &wrong)
	checkCPUList("cpuset_mems", r.GetCpusetMems(), &wrong)
	for i, h := range r.GetHugepageLimits() {
		if !pageSize.MatchString(h.GetPageSize()) {
			wrong.add(at+"hugepage_limits[%d].page_size %q is no size such as 2MB or 1GB", i, h.GetPageSize())
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.GetUnified())) {
		if !unifiedName.MatchString(k) {
			wrong.add(at+"unified: %q is no file of a cgroup v2 controller, such as memory.max", k)
		}
		if hasControl(r.GetUnified()[k]) {
			wrong.add(at+"unified[%q] contains control characters", k)
		}
	}
	return wrong.err()
}

func checkCPUList(field, list string, wrong *findings) {
	if list != "" && !cpuList.MatchString(list) {
		wrong.add("linux.resources.%s %q is no list such as 0-3,6", field, list)
	}
}

func checkMemory(r *runtimeapi.LinuxContainerResources, wrong *findings) {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if limit < -1 {
		wrong.add("linux.resources.memory_limit_in_bytes %d is not -1 (unlimited), 0 or a size", limit)
	}
	if swap < -1 || swap > 0 && (limit <= 0 || swap < limit) {
		wrong.add("linux.resources.memory_swap_limit_in_bytes %d is memory and swap together: -1 (unlimited), 0, or at least memory_limit_in_bytes, which is %d", swap, limit)
	}
}
