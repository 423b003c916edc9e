package cgroup

import (
	"fmt"
	"path"
	"slices"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // makes the library able to limit devices
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// convert turns the limits of a runtime-spec into the library's. What r leaves
// out stays unset, and the library does not write what is unset.
func (s *System) convert(r *specs.LinuxResources) (*cgroups.Resources, error) {
	if r == nil {
		return nil, nil
	}
	out := &cgroups.Resources{SkipDevices: len(r.Devices) == 0}
	var err error
	if out.Devices, err = deviceRules(r.Devices); err != nil {
		return nil, err
	}
	if len(r.Unified) > 0 && s.Mode != V2 {
		return nil, fmt.Errorf("unified limits (%s): need cgroup v2, this host has %s", oneKey(r.Unified), s.Mode)
	}
	out.Unified = r.Unified
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	if r.CPU != nil {
		s.convertCPU(out, r.CPU)
	}
	if r.Memory != nil {
		convertMemory(out, r.Memory)
	}
	if r.BlockIO != nil {
		convertBlockIO(out, r.BlockIO)
	}
	// The kubelet sends a limit, usually 0, for each page size the kernel has,
	// whether or not the controller is there.
	if s.Has("hugetlb") {
		for _, l := range r.HugepageLimits {
			out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
		}
	}
	return out, nil
}

func oneKey(m map[string]string) string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	return slices.Min(keys)
}

func (s *System) convertCPU(out *cgroups.Resources, cpu *specs.LinuxCPU) {
	shares := value(cpu.Shares)
	if s.Mode == V2 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(shares)
	} else {
		out.CpuShares = shares
	}
	out.CpuQuota = value(cpu.Quota)
	out.CpuPeriod = value(cpu.Period)
	out.CpuBurst = cpu.Burst
	out.CpuRtRuntime = value(cpu.RealtimeRuntime)
	out.CpuRtPeriod = value(cpu.RealtimePeriod)
	out.CpusetCpus = cpu.Cpus
	out.CpusetMems = cpu.Mems
	out.CPUIdle = cpu.Idle
}

func convertMemory(out *cgroups.Resources, m *specs.LinuxMemory) {
	out.Memory = value(m.Limit)
	out.MemoryReservation = value(m.Reservation)
	out.MemorySwap = value(m.Swap)
	out.MemorySwappiness = m.Swappiness
	out.OomKillDisable = value(m.DisableOOMKiller)
	out.MemoryCheckBeforeUpdate = value(m.CheckBeforeUpdate)
}

func convertBlockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	out.BlkioWeight = value(b.Weight)
	out.BlkioLeafWeight = value(b.LeafWeight)
	for _, d := range b.WeightDevice {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice,
			cgroups.NewWeightDevice(d.Major, d.Minor, value(d.Weight), value(d.LeafWeight)))
	}
	out.BlkioThrottleReadBpsDevice = throttles(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttles(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttles(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttles(b.ThrottleWriteIOPSDevice)
}

func throttles(given []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	var out []*cgroups.ThrottleDevice
	for _, d := range given {
		out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return out
}

func deviceRules(given []specs.LinuxDeviceCgroup) ([]*devices.Rule, error) {
	var rules []*devices.Rule
	for _, d := range given {
		rule := &devices.Rule{
			Type:        devices.WildcardDevice,
			Major:       devices.Wildcard,
			Minor:       devices.Wildcard,
			Permissions: devices.Permissions(d.Access),
			Allow:       d.Allow,
		}
		if d.Type != "" {
			rule.Type = devices.Type(d.Type[0])
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		if len(d.Type) > 1 || !rule.Type.CanCgroup() {
			return nil, fmt.Errorf("device rule of type %q: must be a, b or c", d.Type)
		}
		if !rule.Permissions.IsValid() {
			return nil, fmt.Errorf("device rule with access %q: must be some of rwm, in this order", d.Access)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func value[T any](p *T) T {
	if p == nil {
		var unset T
		return unset
	}
	return *p
}

// set writes the limits.
func (s *System) set(cgroupPath string, r *cgroups.Resources) error {
	if r == nil {
		return nil
	}
	if err := s.dropSwap(cgroupPath, r); err != nil {
		return err
	}
	if err := s.allowDevices(cgroupPath, r); err != nil {
		return fmt.Errorf("cannot limit devices: %w", err)
	}
	if err := s.manage(cgroupPath, r); err != nil {
		return fmt.Errorf("cannot set limits: %w", err)
	}
	return nil
}

// allowDevices writes the rules that nearly every container has, nothing but a
// few devices, and marks them as done. The library, which opens each file anew
// and reads everything back, takes 0.18 ms for them instead of 0.03.
func (s *System) allowDevices(cgroupPath string, r *cgroups.Resources) error {
	dir := s.dir("devices", cgroupPath)
	if dir == "" || r.SkipDevices || !allowList(r.Devices) {
		return nil
	}
	if err := writeFile(dir, "devices.deny", "a"); err != nil {
		return err
	}
	f, err := openFile(unix.AT_FDCWD, path.Join(dir, "devices.allow"), unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, rule := range r.Devices[1:] {
		if _, err := f.WriteString(rule.CgroupString()); err != nil {
			return fmt.Errorf("cannot write %q: %w", rule.CgroupString(), err)
		}
	}
	r.SkipDevices = true
	return nil
}

// allowList says whether the rules deny everything first and then only allow.
func allowList(rules []*devices.Rule) bool {
	if len(rules) == 0 || rules[0].Allow || *rules[0] != everything {
		return false
	}
	return !slices.ContainsFunc(rules[1:], func(r *devices.Rule) bool { return !r.Allow })
}

var everything = devices.Rule{
	Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "rwm",
}

func (s *System) manage(cgroupPath string, r *cgroups.Resources) error {
	config := &cgroups.Cgroup{Resources: r}
	if s.Mode == V2 {
		m, err := fs2.NewManager(config, s.unifiedDir(cgroupPath))
		if err != nil {
			return err
		}
		return m.Set(r)
	}
	paths := map[string]string{}
	for _, h := range s.v1 {
		for _, c := range h.controllers {
			paths[c] = s.dir(c, cgroupPath)
		}
	}
	m, err := fs.NewManager(config, paths)
	if err != nil {
		return err
	}
	return m.Set(r)
}

// dropSwap is for kernels that do not count swap (swapaccount=0). The kubelet
// asks for no swap, that is memory and swap limited to the same, whatever the
// kernel; only a limit that means something else is refused.
func (s *System) dropSwap(cgroupPath string, r *cgroups.Resources) error {
	if r.MemorySwap == 0 || s.Mode == V2 {
		return nil // the library does this for V2
	}
	const file = "memory.memsw.limit_in_bytes"
	if cgroups.PathExists(s.dir("memory", cgroupPath) + "/" + file) {
		return nil
	}
	if r.MemorySwap > 0 && r.MemorySwap != r.Memory {
		return fmt.Errorf("cannot limit memory and swap to %d: this kernel does not count swap (%s is missing)", r.MemorySwap, file)
	}
	r.MemorySwap = 0
	return nil
}
