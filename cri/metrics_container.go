package cri

import (
	"strconv"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/sandbox"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type use = sandbox.ContainerDetail

// What the kernel does where no limit was asked for (sched-bwc.rst, cgroup-v1).
const (
	defaultPeriod = 100000
	defaultShares = 1024
)

var containerMetrics = []metric[use]{
	plain("container_cpu_cfs_periods_total", counter, "Periods of the processor quota in which something ran.", func(u *use) uint64 { return u.Detail.CPU.Periods }),
	plain("container_cpu_cfs_throttled_periods_total", counter, "Periods in which the processor quota was used up.", func(u *use) uint64 { return u.Detail.CPU.ThrottledPeriods }),
	plain("container_cpu_cfs_throttled_seconds_total", counter, "Time spent waiting for the next period of the processor quota.", func(u *use) uint64 { return u.Detail.CPU.ThrottledTime / 1e9 }),
	plain("container_cpu_system_seconds_total", counter, "Processor time in the kernel.", func(u *use) uint64 { return u.Detail.CPU.System / 1e9 }),
	plain("container_cpu_user_seconds_total", counter, "Processor time outside the kernel.", func(u *use) uint64 { return u.Detail.CPU.User / 1e9 }),
	{"container_cpu_usage_seconds_total", counter, []string{"cpu"}, "Processor time.", func(u *use) []reading {
		return []reading{{u.Cgroup.CPU.Usage / 1e9, []string{"total"}}}
	}},

	plain("container_memory_cache", gauge, "Page cache in bytes.", func(u *use) uint64 { return u.Detail.Memory.Cache }),
	plain("container_memory_failcnt", counter, "How often the memory limit was hit.", func(u *use) uint64 { return u.Detail.Memory.Failures }),
	{"container_memory_failures_total", counter, []string{"failure_type", "scope"}, "Page faults.", pageFaults},
	plain("container_memory_kernel_usage", gauge, "Memory that the kernel holds for the container, in bytes.", func(u *use) uint64 { return u.Detail.Memory.Kernel }),
	plain("container_memory_mapped_file", gauge, "Files mapped into memory, in bytes.", func(u *use) uint64 { return u.Detail.Memory.Mapped }),
	plain("container_memory_max_usage_bytes", gauge, "The most memory that was ever in use, in bytes.", func(u *use) uint64 { return u.Detail.Memory.MaxUsage }),
	plain("container_memory_rss", gauge, "Anonymous memory in bytes.", func(u *use) uint64 { return u.Cgroup.Memory.RSS }),
	plain("container_memory_swap", gauge, "Swap in bytes.", func(u *use) uint64 { return u.Cgroup.Memory.Swap }),
	plain("container_memory_usage_bytes", gauge, "Memory with all of the page cache, in bytes.", func(u *use) uint64 { return u.Cgroup.Memory.Usage }),
	plain("container_memory_working_set_bytes", gauge, "Memory without the page cache that is not in use, in bytes.", func(u *use) uint64 { return u.Cgroup.Memory.WorkingSet }),
	plain("container_memory_events_high_total", counter, "How often the container was slowed down at memory.high.", func(u *use) uint64 { return u.Detail.EventsHigh }),
	plain("container_memory_events_max_total", counter, "How often the container was about to exceed memory.max.", func(u *use) uint64 { return u.Detail.EventMax }),
	plain("container_oom_events_total", counter, "Processes killed because memory was short.", func(u *use) uint64 { return u.Detail.OOMKills }),
	huge("container_hugetlb_usage_bytes", "Huge pages in bytes.", func(h cgroup.HugePages) uint64 { return h.Usage }),
	huge("container_hugetlb_max_usage_bytes", "The most huge pages that were ever in use, in bytes.", func(h cgroup.HugePages) uint64 { return h.Max }),

	stalled("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a processor.", func(u *use) *cgroup.Pressure { return u.Cgroup.CPU.Pressure }),
	waiting("container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for a processor.", func(u *use) *cgroup.Pressure { return u.Cgroup.CPU.Pressure }),
	stalled("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for I/O.", func(u *use) *cgroup.Pressure { return u.Cgroup.IO.Pressure }),
	waiting("container_pressure_io_waiting_seconds_total", "Time in which some task waited for I/O.", func(u *use) *cgroup.Pressure { return u.Cgroup.IO.Pressure }),
	stalled("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory.", func(u *use) *cgroup.Pressure { return u.Cgroup.Memory.Pressure }),
	waiting("container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory.", func(u *use) *cgroup.Pressure { return u.Cgroup.Memory.Pressure }),

	{"container_blkio_device_usage_total", counter, []string{"device", "major", "minor", "operation"}, "Bytes read from and written to block devices.", blockBytes},
	device("container_fs_reads_bytes_total", counter, "Bytes read.", func(d cgroup.DeviceStats) uint64 { return d.ReadBytes }),
	device("container_fs_reads_total", counter, "Reads completed.", func(d cgroup.DeviceStats) uint64 { return d.Reads }),
	device("container_fs_writes_bytes_total", counter, "Bytes written.", func(d cgroup.DeviceStats) uint64 { return d.WriteBytes }),
	device("container_fs_writes_total", counter, "Writes completed.", func(d cgroup.DeviceStats) uint64 { return d.Writes }),
	disk("container_fs_usage_bytes", "Bytes that the container wrote and that are on disk.", func(d *oci.DiskUse) uint64 { return d.Bytes }),
	disk("container_fs_limit_bytes", "Size of the file system that the container writes to, in bytes.", func(d *oci.DiskUse) uint64 { return d.Limit }),
	disk("container_fs_inodes_free", "Free inodes of the file system that the container writes to.", func(d *oci.DiskUse) uint64 { return d.InodesFree }),
	disk("container_fs_inodes_total", "Inodes of the file system that the container writes to.", func(d *oci.DiskUse) uint64 { return d.InodesTotal }),
	device("container_fs_io_current", gauge, uncounted("I/Os under way"), nothing),
	device("container_fs_io_time_seconds_total", counter, uncounted("Time spent doing I/O"), nothing),
	device("container_fs_io_time_weighted_seconds_total", counter, uncounted("Time spent doing I/O, weighted"), nothing),
	device("container_fs_read_seconds_total", counter, uncounted("Time spent reading"), nothing),
	device("container_fs_write_seconds_total", counter, uncounted("Time spent writing"), nothing),
	device("container_fs_reads_merged_total", counter, uncounted("Reads merged"), nothing),
	device("container_fs_writes_merged_total", counter, uncounted("Writes merged"), nothing),
	device("container_fs_sector_reads_total", counter, uncounted("Sectors read"), nothing),
	device("container_fs_sector_writes_total", counter, uncounted("Sectors written"), nothing),

	plain("container_processes", gauge, "Processes in the container.", func(u *use) uint64 { return u.Cgroup.Processes }),
	plain("container_threads", gauge, "Threads in the container.", func(u *use) uint64 { return u.Detail.Threads }),
	plain("container_threads_max", gauge, "How many threads the container may have, 0 without a limit.", func(u *use) uint64 { return u.Detail.ThreadsMax }),
	plain("container_file_descriptors", gauge, "Open files of the container's processes.", func(u *use) uint64 { return u.Files.Files }),
	plain("container_sockets", gauge, "Open sockets of the container's processes.", func(u *use) uint64 { return u.Files.Sockets }),
	{"container_ulimits_soft", gauge, []string{"ulimit"}, "Soft limits of the container's first process.", func(u *use) []reading {
		return []reading{{u.Files.Limit, []string{"max_open_files"}}}
	}},
	plain("container_last_seen", gauge, "When the container was measured, in seconds since 1970.", func(u *use) uint64 { return unixTime(u.Cgroup.Time) }),
	plain("container_start_time_seconds", gauge, "When the container was started, in seconds since 1970.", func(u *use) uint64 { return unixTime(u.StartedAt) }),

	limit("container_spec_cpu_period", "Period of the processor quota in microseconds.", defaultPeriod, (*runtimeapi.LinuxContainerResources).GetCpuPeriod),
	{"container_spec_cpu_quota", gauge, nil, "Processor quota in microseconds; missing without one.", quota},
	limit("container_spec_cpu_shares", "Processor shares.", defaultShares, (*runtimeapi.LinuxContainerResources).GetCpuShares),
	limit("container_spec_memory_limit_bytes", "Memory limit in bytes, 0 without one.", 0, (*runtimeapi.LinuxContainerResources).GetMemoryLimitInBytes),
	limit("container_spec_memory_swap_limit_bytes", "Limit of memory and swap in bytes, 0 without one.", 0, (*runtimeapi.LinuxContainerResources).GetMemorySwapLimitInBytes),
	plain("container_spec_memory_reservation_limit_bytes", gauge, "Memory reservation in bytes; Kubernetes has none, so it is 0.", func(*use) uint64 { return 0 }),
}

// uncounted is the help of what cAdvisor names for each container and the kernel
// does not count for groups: it is 0 there and here.
func uncounted(what string) string { return what + "; not counted for containers." }

func nothing(cgroup.DeviceStats) uint64 { return 0 }

func unixTime(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }

func plain(name string, kind runtimeapi.MetricType, help string, read func(*use) uint64) metric[use] {
	return metric[use]{name, kind, nil, help, func(u *use) []reading { return one(read(u)) }}
}

// limit is a limit as it was asked for, or what the kernel has without one.
func limit(name, help string, without uint64, read func(*runtimeapi.LinuxContainerResources) int64) metric[use] {
	return plain(name, gauge, help, func(u *use) uint64 {
		if n := read(u.Resources()); n > 0 {
			return uint64(n)
		}
		return without
	})
}

func quota(u *use) []reading {
	if n := u.Resources().GetCpuQuota(); n > 0 {
		return one(uint64(n))
	}
	return nil
}

// pageFaults are those of the container's processes, and with those of groups
// that it made itself.
func pageFaults(u *use) []reading {
	m, own := u.Cgroup.Memory, u.Detail.Own
	return []reading{
		{own.Minor, []string{"pgfault", "container"}}, {own.Major, []string{"pgmajfault", "container"}},
		{m.PageFaults, []string{"pgfault", "hierarchy"}}, {m.MajorPageFaults, []string{"pgmajfault", "hierarchy"}},
	}
}

func huge(name, help string, read func(cgroup.HugePages) uint64) metric[use] {
	return metric[use]{name, gauge, []string{"pagesize"}, help, func(u *use) []reading {
		var out []reading
		for _, h := range u.Detail.HugePages {
			out = append(out, reading{read(h), []string{h.Size}})
		}
		return out
	}}
}

func stalled(name, help string, of func(*use) *cgroup.Pressure) metric[use] {
	return pressureMetric(name, help, of, func(p *cgroup.Pressure) cgroup.PressureLine { return p.Full })
}

func waiting(name, help string, of func(*use) *cgroup.Pressure) metric[use] {
	return pressureMetric(name, help, of, func(p *cgroup.Pressure) cgroup.PressureLine { return p.Some })
}

// pressureMetric is in seconds; the kernel counts microseconds.
func pressureMetric(name, help string, of func(*use) *cgroup.Pressure, line func(*cgroup.Pressure) cgroup.PressureLine) metric[use] {
	return metric[use]{name, counter, nil, help, func(u *use) []reading {
		if p := of(u); p != nil {
			return one(line(p).Total / 1e6)
		}
		return nil
	}}
}

func blockBytes(u *use) []reading {
	var out []reading
	for _, d := range u.Detail.Devices {
		name, major, minor := oci.DeviceName(d.Major, d.Minor), strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		out = append(out, reading{d.ReadBytes, []string{name, major, minor, "Read"}}, reading{d.WriteBytes, []string{name, major, minor, "Write"}})
	}
	return out
}

// device is a value for each block device that the container used, or 0 for the
// one that it would use.
func device(name string, kind runtimeapi.MetricType, help string, read func(cgroup.DeviceStats) uint64) metric[use] {
	return metric[use]{name, kind, []string{"device"}, help, func(u *use) []reading {
		var out []reading
		for _, d := range u.Detail.Devices {
			out = append(out, reading{read(d), []string{oci.DeviceName(d.Major, d.Minor)}})
		}
		if len(out) == 0 {
			name := ""
			if u.Disk != nil {
				name = u.Disk.Device
			}
			out = []reading{{0, []string{name}}}
		}
		return out
	}}
}

func disk(name, help string, read func(*oci.DiskUse) uint64) metric[use] {
	return metric[use]{name, gauge, []string{"device"}, help, func(u *use) []reading {
		if u.Disk == nil {
			return nil
		}
		return []reading{{read(u.Disk), []string{u.Disk.Device}}}
	}}
}
