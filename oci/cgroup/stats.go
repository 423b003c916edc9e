package cgroup

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// Stats is what a group has used, as far as a kubelet asks for it every few seconds:
// each file is one that the kernel computes when it is opened. A value that the host
// does not count is 0, a pressure that it does not measure nil.
type Stats struct {
	Time   time.Time // when it was read
	CPU    CPUStats
	Memory MemoryStats
	// Processes are those of the group itself.
	Processes uint64
	IO        IOStats
}

// CPUStats is processor time in nanoseconds.
type CPUStats struct {
	Usage    uint64
	Pressure *Pressure
}

// MemoryStats is in bytes.
type MemoryStats struct {
	Usage           uint64
	WorkingSet      uint64 // usage without the page cache that is not in use
	RSS             uint64 // anonymous memory
	Limit           uint64 // 0 if there is none
	Swap            uint64 // without what is in memory
	SwapLimit       uint64 // without memory, 0 if there is none
	PageFaults      uint64
	MajorPageFaults uint64
	Pressure        *Pressure
}

// IOStats is about block devices.
type IOStats struct{ Pressure *Pressure }

// Pressure is what was stalled, see psi.rst: some of the processes, and all.
type Pressure struct {
	Some, Full PressureLine
}

// PressureLine is the share of time in percent, and the total in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Stats reads what the group has used. The error of a group that was removed is
// fs.ErrNotExist.
func (c *Cgroup) Stats() (Stats, error) {
	dirs, done, err := c.measured()
	if err != nil {
		return Stats{}, fmt.Errorf("cannot measure cgroup %s: %w", c.Path, err)
	}
	defer done()
	r := c.reader(dirs)
	defer r.release()
	st := Stats{Time: time.Now(), Processes: r.processes()}
	if c.sys.Mode == V2 {
		r.v2(&st)
	} else {
		r.v1(&st)
	}
	if c.unified != nil {
		st.CPU.Pressure = r.pressure("cpu.pressure")
		st.Memory.Pressure = r.pressure("memory.pressure")
		st.IO.Pressure = r.pressure("io.pressure")
	}
	if r.err != nil {
		return Stats{}, fmt.Errorf("cannot measure cgroup %s: %w", c.Path, r.err)
	}
	return st, nil
}

func (r *reader) v1(st *Stats) {
	if r.cgroup.unified != nil {
		st.CPU.Usage = r.cpuTime() // v2 counts time without a controller
	} else {
		st.CPU.Usage = number(r.file("cpuacct", "cpuacct.usage"))
	}

	m := &st.Memory
	m.Usage = number(r.file("memory", "memory.usage_in_bytes"))
	stat := r.file("memory", "memory.stat")
	m.WorkingSet = m.Usage - min(m.Usage, get(stat, "total_inactive_file"))
	m.RSS = get(stat, "total_rss")
	m.Swap = get(stat, "total_swap")
	m.PageFaults = get(stat, "total_pgfault")
	m.MajorPageFaults = get(stat, "total_pgmajfault")
	// The limits of all parents count, as they do for what is killed.
	m.Limit = limit(get(stat, "hierarchical_memory_limit"))
	if both := limit(get(stat, "hierarchical_memsw_limit")); both > m.Limit && m.Limit > 0 {
		m.SwapLimit = both - m.Limit
	}
}

// cpuTime reads the v2 group's, in nanoseconds.
func (r *reader) cpuTime() uint64 { return get(r.file("", "cpu.stat"), "usage_usec") * 1000 }

func (r *reader) v2(st *Stats) {
	st.CPU.Usage = r.cpuTime()

	m := &st.Memory
	m.Usage = number(r.file("", "memory.current"))
	m.Limit = number(r.file("", "memory.max"))
	m.Swap = number(r.file("", "memory.swap.current"))
	m.SwapLimit = number(r.file("", "memory.swap.max"))
	stat := r.file("", "memory.stat")
	m.WorkingSet = m.Usage - min(m.Usage, get(stat, "inactive_file"))
	m.RSS = get(stat, "anon")
	m.PageFaults = get(stat, "pgfault")
	m.MajorPageFaults = get(stat, "pgmajfault")
}

// pressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" lines.
func (r *reader) pressure(name string) *Pressure {
	data := r.file("", name)
	if len(data) == 0 {
		return nil
	}
	p := &Pressure{}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		to := &p.Some
		if string(f[0]) == "full" {
			to = &p.Full
		}
		*to = PressureLine{decimal(f[1]), decimal(f[2]), decimal(f[3]), number(after(f[4]))}
	}
	return p
}

func after(pair []byte) []byte {
	_, v, _ := bytes.Cut(pair, []byte("="))
	return v
}

func decimal(pair []byte) float64 {
	v, _ := strconv.ParseFloat(string(after(pair)), 64)
	return v
}

// get returns the number after a name, 0 if there is none.
func get(data []byte, name string) uint64 {
	n, _ := field(data, name)
	return n
}

// number parses a file of one number; "max" and what is none is 0.
func number(data []byte) uint64 {
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// limit turns v1's number for "no limit", which is almost 1<<63, into 0.
func limit(n uint64) uint64 {
	if n >= 1<<62 {
		return 0
	}
	return n
}
