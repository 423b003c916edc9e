package cgroup

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// Stats is what a group has used. A value that the host does not count is 0, a
// pressure that it does not measure nil.
type Stats struct {
	Time   time.Time // when it was read
	CPU    CPUStats
	Memory MemoryStats
	Pids   uint64 // processes and threads, also of groups below
	// Processes are those of the group itself.
	Processes uint64
	IO        IOStats
}

// CPUStats is processor time in nanoseconds.
type CPUStats struct {
	Usage, User, System uint64
	Periods             uint64 // of the quota, in which something ran
	ThrottledPeriods    uint64
	ThrottledTime       uint64
	Pressure            *Pressure
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
type IOStats struct {
	Devices  []DeviceStats // those that were used
	Pressure *Pressure
}

// DeviceStats is what was read from and written to one block device.
type DeviceStats struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

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
	r := &reader{cgroup: c, dirs: dirs}
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
		r.cpuTime(st) // v2 counts time without a controller, in one file
	} else {
		st.CPU.Usage = number(r.file("cpuacct", "cpuacct.usage"))
		st.CPU.User = number(r.file("cpuacct", "cpuacct.usage_user"))
		st.CPU.System = number(r.file("cpuacct", "cpuacct.usage_sys"))
	}
	stat := r.file("cpu", "cpu.stat")
	st.CPU.Periods = get(stat, "nr_periods")
	st.CPU.ThrottledPeriods = get(stat, "nr_throttled")
	st.CPU.ThrottledTime = get(stat, "throttled_time")

	m := &st.Memory
	m.Usage = number(r.file("memory", "memory.usage_in_bytes"))
	stat = r.file("memory", "memory.stat")
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

	st.Pids = number(r.file("pids", "pids.current"))
	r.blkio(st)
}

// blkio reads "major:minor Read number" lines.
func (r *reader) blkio(st *Stats) {
	eachDevice(r.file("blkio", "blkio.throttle.io_service_bytes_recursive"), func(d *DeviceStats, op string, n uint64) {
		switch op {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	}, st)
	eachDevice(r.file("blkio", "blkio.throttle.io_serviced_recursive"), func(d *DeviceStats, op string, n uint64) {
		switch op {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	}, st)
}

func eachDevice(data []byte, put func(*DeviceStats, string, uint64), st *Stats) {
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		if d := device(st, f[0]); d != nil {
			put(d, string(f[1]), number(f[2]))
		}
	}
}

// device finds or adds the device named "major:minor".
func device(st *Stats, name []byte) *DeviceStats {
	a, b, ok := bytes.Cut(name, []byte(":"))
	if !ok {
		return nil
	}
	major, minor := number(a), number(b)
	for i := range st.IO.Devices {
		if st.IO.Devices[i].Major == major && st.IO.Devices[i].Minor == minor {
			return &st.IO.Devices[i]
		}
	}
	st.IO.Devices = append(st.IO.Devices, DeviceStats{Major: major, Minor: minor})
	return &st.IO.Devices[len(st.IO.Devices)-1]
}

// cpuTime reads the v2 group's cpu.stat, and returns it.
func (r *reader) cpuTime(st *Stats) []byte {
	stat := r.file("", "cpu.stat")
	st.CPU.Usage = get(stat, "usage_usec") * 1000
	st.CPU.User = get(stat, "user_usec") * 1000
	st.CPU.System = get(stat, "system_usec") * 1000
	return stat
}

func (r *reader) v2(st *Stats) {
	stat := r.cpuTime(st)
	st.CPU.Periods = get(stat, "nr_periods")
	st.CPU.ThrottledPeriods = get(stat, "nr_throttled")
	st.CPU.ThrottledTime = get(stat, "throttled_usec") * 1000

	m := &st.Memory
	m.Usage = number(r.file("", "memory.current"))
	m.Limit = number(r.file("", "memory.max"))
	m.Swap = number(r.file("", "memory.swap.current"))
	m.SwapLimit = number(r.file("", "memory.swap.max"))
	stat = r.file("", "memory.stat")
	m.WorkingSet = m.Usage - min(m.Usage, get(stat, "inactive_file"))
	m.RSS = get(stat, "anon")
	m.PageFaults = get(stat, "pgfault")
	m.MajorPageFaults = get(stat, "pgmajfault")

	st.Pids = number(r.file("", "pids.current"))
	r.io(st)
}

// io reads "major:minor rbytes=1 wbytes=2 rios=3 wios=4 …" lines.
func (r *reader) io(st *Stats) {
	for line := range bytes.Lines(r.file("", "io.stat")) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := device(st, f[0])
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
