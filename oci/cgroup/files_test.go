package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

// fake is a group whose files the test wrote: what one kernel shows does not
// depend on how the host of the test is set up.
func fake(t *testing.T, s *System, files map[string]string) *Cgroup {
	t.Helper()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Open("/g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func in(dir string, files map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range files {
		out[filepath.Join(dir, name)] = text
	}
	return out
}

func checkStats(t *testing.T, c *Cgroup, want Stats, detail Detail) {
	t.Helper()
	got, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	got.Time = time.Time{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("stats:\ngot    %+v\nwanted %+v", got, want)
	}
	d, err := c.Detail()
	if err != nil {
		t.Fatal(err)
	}
	d.Time = time.Time{}
	if !reflect.DeepEqual(d, detail) {
		t.Errorf("detail:\ngot    %+v\nwanted %+v", d, detail)
	}
	if pids, err := c.Members(2); err != nil || !slices.Equal(pids, []int{1, 22}) {
		t.Errorf("members: %v, %v", pids, err)
	}
}

func TestFilesOfV2(t *testing.T) {
	root := t.TempDir()
	files := in(filepath.Join(root, "g"), map[string]string{
		"cgroup.procs":        "1\n22\n333\n",
		"exec-a/cgroup.procs": "4\n5\n",
		"exec-b/cgroup.procs": "6\n",
		"own/cgroup.procs":    "7\n",
		"cpu.stat":            "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 9\nnr_throttled 4\nthrottled_usec 55\n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.25 avg300=0.10 total=1234\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=234\n",
		"memory.current":      "1000000\n",
		"memory.max":          "2000000\n",
		"memory.swap.current": "300\n",
		"memory.swap.max":     "max\n",
		"memory.stat":         "anon 400000\nfile 500000\nkernel 7000\nfile_mapped 600\ninactive_file 100000\npgfault 77\npgmajfault 7\n",
		"memory.peak":         "1500000\n",
		"memory.events":       "low 0\nhigh 3\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n",
		"pids.current":        "12\n",
		"pids.max":            "100\n",
		"io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n259:3 \n",
	})
	for _, size := range hugePageSizes() {
		files[filepath.Join(root, "g", "hugetlb."+size+".current")] = "4096\n"
	}
	c := fake(t, &System{Mode: V2, unified: root, controllers: []string{"memory"}}, files)
	detail := Detail{Memory: MemoryDetail{Cache: 500000, Mapped: 600, Kernel: 7000, MaxUsage: 1500000, Failures: 5}, Own: Faults{77, 7},
		CPU:      CPUDetail{User: 2e6, System: 1e6, Periods: 9, ThrottledPeriods: 4, ThrottledTime: 55000},
		OOMKills: 1, EventsHigh: 3, EventMax: 5, Threads: 12, ThreadsMax: 100,
		Devices: []DeviceStats{{Major: 8, ReadBytes: 1, WriteBytes: 2, Reads: 3, Writes: 4}}}
	for _, size := range hugePageSizes() {
		detail.HugePages = append(detail.HugePages, HugePages{Size: size, Usage: 4096})
	}
	checkStats(t, c, Stats{
		Processes: 3,
		CPU: CPUStats{Usage: 3e6,
			Pressure: &Pressure{Some: PressureLine{1.5, 0.25, 0.1, 1234}, Full: PressureLine{Avg10: 0.5, Total: 234}}},
		Memory: MemoryStats{Usage: 1000000, WorkingSet: 900000, RSS: 400000, Limit: 2000000, Swap: 300, PageFaults: 77, MajorPageFaults: 7},
	}, detail)
	if n := c.ProcessesBelow("exec-"); n != 3 {
		t.Errorf("%d processes of commands, wanted 3", n)
	}
}

func TestFilesOfV1(t *testing.T) {
	root := t.TempDir()
	s := &System{Mode: V1, controllers: []string{"memory"}}
	for _, h := range [][]string{{"cpuset"}, {"cpu", "cpuacct"}, {"memory"}, {"pids"}, {"blkio"}, {"hugetlb"}} {
		s.v1 = append(s.v1, hierarchy{filepath.Join(root, h[0]), h})
	}
	files := in(root, map[string]string{
		"cpuset/g/cgroup.procs":              "1\n22\n333\n",
		"cpu/g/cgroup.procs":                 "1\n22\n333\n",
		"cpu/g/cpuacct.usage":                "3000\n",
		"cpu/g/cpuacct.usage_user":           "2000\n",
		"cpu/g/cpuacct.usage_sys":            "1000\n",
		"cpu/g/cpu.stat":                     "nr_periods 9\nnr_throttled 4\nthrottled_time 55000\n",
		"memory/g/memory.usage_in_bytes":     "1000000\n",
		"memory/g/memory.max_usage_in_bytes": "1500000\n",
		"memory/g/memory.failcnt":            "5\n",
		"memory/g/memory.oom_control":        "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"memory/g/memory.stat": "pgfault 70\npgmajfault 6\nhierarchical_memory_limit 2000000\nhierarchical_memsw_limit 2500000\n" +
			"total_cache 500000\ntotal_rss 400000\ntotal_mapped_file 600\ntotal_swap 300\ntotal_inactive_file 100000\ntotal_pgfault 77\ntotal_pgmajfault 7\n",
		"memory/g/memory.kmem.usage_in_bytes":               "7000\n",
		"pids/g/pids.current":                               "12\n",
		"pids/g/pids.max":                                   "max\n",
		"blkio/g/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\nTotal 3\n",
		"blkio/g/blkio.throttle.io_serviced_recursive":      "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
		"hugetlb/g/notify_on_release":                       "0\n",
	})
	detail := Detail{Memory: MemoryDetail{Cache: 500000, Mapped: 600, Kernel: 7000, MaxUsage: 1500000, Failures: 5}, Own: Faults{70, 6},
		CPU:      CPUDetail{User: 2000, System: 1000, Periods: 9, ThrottledPeriods: 4, ThrottledTime: 55000},
		OOMKills: 1, EventMax: 5, Threads: 12,
		Devices: []DeviceStats{{Major: 8, ReadBytes: 1, WriteBytes: 2, Reads: 3, Writes: 4}}}
	for _, size := range hugePageSizes() {
		files[filepath.Join(root, "hugetlb/g/hugetlb."+size+".usage_in_bytes")] = "4096\n"
		files[filepath.Join(root, "hugetlb/g/hugetlb."+size+".max_usage_in_bytes")] = "8192\n"
		detail.HugePages = append(detail.HugePages, HugePages{size, 4096, 8192})
	}
	c := fake(t, s, files)
	checkStats(t, c, Stats{
		Processes: 3,
		CPU:       CPUStats{Usage: 3000},
		Memory:    MemoryStats{Usage: 1000000, WorkingSet: 900000, RSS: 400000, Limit: 2000000, Swap: 300, SwapLimit: 500000, PageFaults: 77, MajorPageFaults: 7},
	}, detail)
}

// TestStatsBesideClose: a measurement that meets the group's end finds no group,
// and never another file under an old number.
func TestStatsBesideClose(t *testing.T) { everywhere(t, testStatsBesideClose) }

func testStatsBesideClose(t *testing.T, s *System) {
	for range 20 {
		c := createIn(t, s, nil)
		done := make(chan error)
		for range 4 {
			go func() {
				for {
					if _, err := c.Stats(); err != nil {
						done <- err
						return
					}
				}
			}()
		}
		c.Close()
		for range 4 {
			if err := <-done; !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after the close: %v", err)
			}
		}
	}
}
