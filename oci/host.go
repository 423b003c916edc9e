package oci

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/oci/apparmor"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"golang.org/x/sys/unix"
)

// HostFacts finds out what this node can do, once, at the daemon's start.
func HostFacts(groups *cgroup.System) (spec.Host, error) {
	h := spec.Host{Arch: runtime.GOARCH, CgroupV2: groups.Mode == cgroup.V2, RecursiveReadOnly: mount.Detect().SetAttr,
		Swap: hasSwap(groups), HugePageSizes: hugePageSizes(groups)}
	var err error
	if h.Hostname, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("cannot read host name: %w", err)
	}
	if h.Kernel, err = kernel(); err != nil {
		return h, err
	}
	h.AppArmor = apparmor.Active()
	mine, err := capabilities()
	if err != nil {
		return h, err
	}
	h.Capabilities = spec.CapabilityNames(mine)
	h.MinOOMScoreAdj = -1000
	if mine&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		if h.MinOOMScoreAdj, err = oomScoreAdj(); err != nil {
			return h, err
		}
		h.HardLimits, err = hardLimits()
	}
	return h, err
}

func kernel() (spec.Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return spec.Kernel{}, fmt.Errorf("cannot read kernel version: %w", err)
	}
	var k spec.Kernel
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &k.Major, &k.Minor); err != nil {
		return k, fmt.Errorf("cannot read kernel version: %w", err)
	}
	return k, nil
}

// capabilities are the daemon's permitted ones: it can give away no others.
func capabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("cannot read capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, fmt.Errorf("cannot read capabilities: /proc/self/status has no CapPrm")
}

func oomScoreAdj() (int, error) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("cannot read own oom_score_adj: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

var limitNames = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_STACK": unix.RLIMIT_STACK,
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

func hardLimits() (map[string]uint64, error) {
	out := map[string]uint64{}
	for name, resource := range limitNames {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", name, err)
		}
		if l.Max != math.MaxUint64 {
			out[name] = l.Max
		}
	}
	return out, nil
}

// hasSwap tells whether swap is accounted. On v2 it is wherever the kernel has swap;
// memory.swap.max is in every group but the root (cgroup-v2.rst), which tells nothing.
func hasSwap(groups *cgroup.System) bool {
	sign := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if groups.Mode == cgroup.V2 {
		sign = "/proc/swaps"
	}
	_, err := os.Stat(sign)
	return err == nil && groups.Has("memory")
}

// hugePageSizes are those with a limit, in the form of the controller's files.
func hugePageSizes(groups *cgroup.System) []string {
	if !groups.Has("hugetlb") {
		return nil
	}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		switch {
		case kb >= 1<<20:
			out = append(out, fmt.Sprintf("%dGB", kb>>20))
		case kb >= 1<<10:
			out = append(out, fmt.Sprintf("%dMB", kb>>10))
		default:
			out = append(out, fmt.Sprintf("%dKB", kb))
		}
	}
	return out
}
