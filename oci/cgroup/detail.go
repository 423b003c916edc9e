package cgroup

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Detail is what is counted beside Stats. A value that the host does not count
// is 0.
type Detail struct {
	Time                 time.Time
	Memory               MemoryDetail
	Own                  Faults // of the group's own processes
	OOMKills             uint64
	EventsHigh, EventMax uint64 // how often the limits "high" and "max" were hit
	ThreadsMax           uint64 // 0 if there is no limit
	HugePages            []HugePages
}

// MemoryDetail is in bytes, but for Failures.
type MemoryDetail struct {
	Cache, Mapped, Kernel uint64
	MaxUsage              uint64 // the most it ever was
	Failures              uint64 // how often the limit stopped an allocation
}

// Faults counts page faults.
type Faults struct{ Minor, Major uint64 }

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
	r := &reader{cgroup: c, dirs: dirs}
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
	stat := r.file("memory", "memory.stat")
	d.Memory.Cache = get(stat, "total_cache")
	d.Memory.Mapped = get(stat, "total_mapped_file")
	d.Own = Faults{get(stat, "pgfault"), get(stat, "pgmajfault")}
	d.Memory.Kernel = number(r.file("memory", "memory.kmem.usage_in_bytes"))
	d.Memory.MaxUsage = number(r.file("memory", "memory.max_usage_in_bytes"))
	d.Memory.Failures = number(r.file("memory", "memory.failcnt"))
	d.EventMax = d.Memory.Failures
	d.OOMKills = get(r.file("memory", "memory.oom_control"), "oom_kill")
	d.ThreadsMax = number(r.file("pids", "pids.max"))
	if r.dir("hugetlb") == nil {
		return
	}
	for _, size := range hugePageSizes() {
		d.HugePages = append(d.HugePages, HugePages{size, number(r.file("hugetlb", "hugetlb."+size+".usage_in_bytes")),
			number(r.file("hugetlb", "hugetlb."+size+".max_usage_in_bytes"))})
	}
}

func (r *reader) detailV2(d *Detail) {
	stat := r.file("", "memory.stat")
	d.Memory.Cache = get(stat, "file")
	d.Memory.Mapped = get(stat, "file_mapped")
	d.Memory.Kernel = get(stat, "kernel")
	d.Own = Faults{get(stat, "pgfault"), get(stat, "pgmajfault")}
	d.Memory.MaxUsage = number(r.file("", "memory.peak"))
	events := r.file("", "memory.events")
	d.EventsHigh, d.EventMax = get(events, "high"), get(events, "max")
	d.Memory.Failures = d.EventMax
	d.OOMKills = get(events, "oom_kill")
	d.ThreadsMax = number(r.file("", "pids.max"))
	for _, size := range hugePageSizes() {
		if data := r.file("", "hugetlb."+size+".current"); data != nil {
			d.HugePages = append(d.HugePages, HugePages{Size: size, Usage: number(data)})
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
