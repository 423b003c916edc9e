package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Detail is what is counted beside Stats, for metrics. A value that the host does not
// count is 0.
type Detail struct {
	Time                 time.Time
	CPU                  CPUDetail
	Memory               MemoryDetail
	Own                  Faults // of the group's own processes
	OOMKills             uint64
	EventsHigh, EventMax uint64        // how often the limits "high" and "max" were hit
	Threads              uint64        // also of groups below
	ThreadsMax           uint64        // 0 if there is no limit
	Devices              []DeviceStats // those that were used
	HugePages            []HugePages
}

// CPUDetail is processor time in nanoseconds.
type CPUDetail struct {
	User, System     uint64
	Periods          uint64 // of the quota, in which something ran
	ThrottledPeriods uint64
	ThrottledTime    uint64
}

// MemoryDetail is in bytes, but for Failures.
type MemoryDetail struct {
	Cache, Mapped, Kernel uint64
	MaxUsage              uint64 // the most it ever was
	Failures              uint64 // how often the limit stopped an allocation
}

// Faults counts page faults.
type Faults struct{ Minor, Major uint64 }

// DeviceStats is what was read from and written to one block device.
type DeviceStats struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// HugePages is the use of huge pages of one size, in bytes.
type HugePages struct {
	Size       string // as the kernel names it, such as "2MB"
	Usage, Max uint64
}

// Detail reads it. The error of a group that was removed is fs.ErrNotExist.
func (c *Cgroup) Detail() (Detail, error) {
	dirs, done, err := c.measured()
	if err != nil {
		return Detail{}, fmt.Errorf("cannot measure cgroup %s: %w", c.Path, err)
	}
	defer done()
	r := c.reader(dirs)
	defer r.release()
	d := Detail{Time: time.Now()}
	if c.sys.Mode == V2 {
		r.detailV2(&d)
	} else {
		r.detailV1(&d)
	}
	if r.err != nil {
		return Detail{}, fmt.Errorf("cannot measure cgroup %s: %w", c.Path, r.err)
	}
	return d, nil
}

func (r *reader) detailV1(d *Detail) {
	if r.cgroup.unified != nil {
		r.cpuTimes(&d.CPU) // in one file
	} else {
		d.CPU.User = number(r.file("cpuacct", "cpuacct.usage_user"))
		d.CPU.System = number(r.file("cpuacct", "cpuacct.usage_sys"))
	}
	stat := r.file("cpu", "cpu.stat")
	d.CPU.Periods = get(stat, "nr_periods")
	d.CPU.ThrottledPeriods = get(stat, "nr_throttled")
	d.CPU.ThrottledTime = get(stat, "throttled_time")
	stat = r.file("memory", "memory.stat")
	d.Memory.Cache = get(stat, "total_cache")
	d.Memory.Mapped = get(stat, "total_mapped_file")
	d.Own = Faults{get(stat, "pgfault"), get(stat, "pgmajfault")}
	d.Memory.Kernel = number(r.file("memory", "memory.kmem.usage_in_bytes"))
	d.Memory.MaxUsage = number(r.file("memory", "memory.max_usage_in_bytes"))
	d.Memory.Failures = number(r.file("memory", "memory.failcnt"))
	d.EventMax = d.Memory.Failures
	d.OOMKills = get(r.file("memory", "memory.oom_control"), "oom_kill")
	d.Threads, d.ThreadsMax = number(r.file("pids", "pids.current")), number(r.file("pids", "pids.max"))
	r.blkio(d)
	if r.dir("hugetlb") == nil {
		return
	}
	for _, size := range hugePageSizes() {
		d.HugePages = append(d.HugePages, HugePages{size, number(r.file("hugetlb", "hugetlb."+size+".usage_in_bytes")),
			number(r.file("hugetlb", "hugetlb."+size+".max_usage_in_bytes"))})
	}
}

func (r *reader) detailV2(d *Detail) {
	stat := r.cpuTimes(&d.CPU)
	d.CPU.Periods = get(stat, "nr_periods")
	d.CPU.ThrottledPeriods = get(stat, "nr_throttled")
	d.CPU.ThrottledTime = get(stat, "throttled_usec") * 1000
	stat = r.file("", "memory.stat")
	d.Memory.Cache = get(stat, "file")
	d.Memory.Mapped = get(stat, "file_mapped")
	d.Memory.Kernel = get(stat, "kernel")
	d.Own = Faults{get(stat, "pgfault"), get(stat, "pgmajfault")}
	d.Memory.MaxUsage = number(r.file("", "memory.peak"))
	events := r.file("", "memory.events")
	d.EventsHigh, d.EventMax = get(events, "high"), get(events, "max")
	d.Memory.Failures = d.EventMax
	d.OOMKills = get(events, "oom_kill")
	d.Threads, d.ThreadsMax = number(r.file("", "pids.current")), number(r.file("", "pids.max"))
	r.io(d)
	for _, size := range hugePageSizes() {
		if data := r.file("", "hugetlb."+size+".current"); data != nil {
			d.HugePages = append(d.HugePages, HugePages{Size: size, Usage: number(data)})
		}
	}
}

// cpuTimes reads the v2 group's cpu.stat, and returns it.
func (r *reader) cpuTimes(cpu *CPUDetail) []byte {
	stat := r.file("", "cpu.stat")
	cpu.User, cpu.System = get(stat, "user_usec")*1000, get(stat, "system_usec")*1000
	return stat
}

// blkio reads "major:minor Read number" lines.
func (r *reader) blkio(detail *Detail) {
	eachDevice(r.file("blkio", "blkio.throttle.io_service_bytes_recursive"), func(d *DeviceStats, op string, n uint64) {
		switch op {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	}, detail)
	eachDevice(r.file("blkio", "blkio.throttle.io_serviced_recursive"), func(d *DeviceStats, op string, n uint64) {
		switch op {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	}, detail)
}

func eachDevice(data []byte, put func(*DeviceStats, string, uint64), detail *Detail) {
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		if d := device(detail, f[0]); d != nil {
			put(d, string(f[1]), number(f[2]))
		}
	}
}

// device finds or adds the device named "major:minor".
func device(detail *Detail, name []byte) *DeviceStats {
	a, b, ok := bytes.Cut(name, []byte(":"))
	if !ok {
		return nil
	}
	major, minor := number(a), number(b)
	for i := range detail.Devices {
		if detail.Devices[i].Major == major && detail.Devices[i].Minor == minor {
			return &detail.Devices[i]
		}
	}
	detail.Devices = append(detail.Devices, DeviceStats{Major: major, Minor: minor})
	return &detail.Devices[len(detail.Devices)-1]
}

// io reads "major:minor rbytes=1 wbytes=2 rios=3 wios=4 …" lines.
func (r *reader) io(detail *Detail) {
	for line := range bytes.Lines(r.file("", "io.stat")) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := device(detail, f[0])
		if d == nil {
			continue
		}
		for _, pair := range f[1:] {
			key, n, _ := bytes.Cut(pair, []byte("="))
			switch string(key) {
			case "rbytes":
				d.ReadBytes = number(n)
			case "wbytes":
				d.WriteBytes = number(n)
			case "rios":
				d.Reads = number(n)
			case "wios":
				d.Writes = number(n)
			}
		}
	}
}

// hugePageSizes are the sizes that this machine has, in the form of the
// controller's files.
var hugePageSizes = sync.OnceValue(func() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		kb := number([]byte(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB")))
		switch {
		case kb >= 1<<20:
			out = append(out, fmt.Sprintf("%dGB", kb>>20))
		case kb >= 1<<10:
			out = append(out, fmt.Sprintf("%dMB", kb>>10))
		case kb > 0:
			out = append(out, fmt.Sprintf("%dKB", kb))
		}
	}
	return out
})
