package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

// limited are limits of every kind that this host has.
func limited() *specs.LinuxResources {
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Access: "m"},
			{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"},
		},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0"},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(128 << 20)), Swap: ptr(int64(128 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
	}
}

func TestLimitsReadBack(t *testing.T) { everywhere(t, testLimitsReadBack) }

func testLimitsReadBack(t *testing.T, s *System) {
	c := createIn(t, s, limited())
	if c.sys.Mode == V2 {
		expect(t, c, [][3]string{{"", "cpu.weight", "59"}, {"", "cpu.max", "50000 100000"}, {"", "cpuset.cpus", "0"},
			{"", "memory.max", "134217728"}, {"", "memory.swap.max", "0"}, {"", "pids.max", "50"}})
		return
	}
	expect(t, c, [][3]string{{"cpu.shares", "", "512"}, {"cpu.cfs_quota_us", "", "50000"}, {"cpuset.cpus", "", "0"},
		{"memory.limit_in_bytes", "", "134217728"}, {"memory.memsw.limit_in_bytes", "", "134217728"},
		{"pids.max", "", "50"}, {"devices.list", "", "c *:* m\nc 1:3 rwm"}})
}

// TestDeviceRules: what is not the usual list of allowed devices goes through
// the library, and comes out the same.
func TestDeviceRules(t *testing.T) {
	deny := specs.LinuxDeviceCgroup{Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(7)), Access: "rwm"}
	allow := deny
	allow.Allow = true
	r := limited()
	r.Devices = []specs.LinuxDeviceCgroup{r.Devices[0], r.Devices[2], allow, deny}
	c := create(t, r)
	if c.sys.Mode != V2 {
		expect(t, c, [][3]string{{"devices.list", "", "c 1:3 rwm"}})
	}
	all := create(t, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}})
	if c.sys.Mode != V2 {
		expect(t, all, [][3]string{{"devices.list", "", "a *:* rwm"}})
	}
}

// TestDevicesAreDenied opens devices from inside.
func TestDevicesAreDenied(t *testing.T) {
	c := create(t, limited())
	p := start(t, c, "", "/bin/bash", "-c", `: < /dev/null && ! : < /dev/zero && exit 42`)
	p.Wait()
	if p.ProcessState.ExitCode() != 42 {
		t.Errorf("null must open, zero must not: %v", p.ProcessState)
	}
}

func expect(t *testing.T, c *Cgroup, want [][3]string) {
	t.Helper()
	for _, w := range want {
		if got := read(t, c, w[0], w[1]); got != w[2] {
			t.Errorf("%s%s is %q, want %q", w[0], w[1], got, w[2])
		}
	}
}

func TestUnsetIsNotWritten(t *testing.T) {
	none, empty := create(t, nil), create(t, &specs.LinuxResources{})
	for _, file := range none.updatable(noLimits) {
		dir, name := path.Split(file)
		other := path.Join(strings.Replace(dir, none.Path, empty.Path, 1), name)
		a, err1 := os.ReadFile(file)
		b, err2 := os.ReadFile(other)
		if string(a) != string(b) || (err1 == nil) != (err2 == nil) {
			t.Errorf("%s: %q without limits, %q with none set", name, a, b)
		}
	}
	if none.sys.Mode != V2 && read(t, empty, "devices.list", "") != "a *:* rwm" {
		t.Error("devices were limited although no rule was given")
	}
}

func TestJoinAndKillTree(t *testing.T) { everywhere(t, testJoinAndKillTree) }

func testJoinAndKillTree(t *testing.T, s *System) {
	c := createIn(t, s, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(20))}})
	// Children in sessions of their own; then it forks as long as it lives, which
	// only the limit stops.
	p := start(t, c, "", "/bin/bash", "-c",
		`for i in {1..5}; do setsid sleep 1000 & done; echo ready; while :; do sleep 1000 & done 2>/dev/null`)
	if pids, err := c.Procs(); err != nil || len(pids) < 6 {
		t.Fatalf("before kill: %v, %v", pids, err)
	}
	joinedEverywhere(t, c, p.Process.Pid)
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitEmpty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Procs(); err != nil || len(pids) > 0 {
		t.Errorf("after kill: %v, %v", pids, err)
	}
	p.Wait()
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// joinedEverywhere checks that the kernel has the process in the group in every
// hierarchy.
func joinedEverywhere(t *testing.T, c *Cgroup, pid int) {
	t.Helper()
	for _, v := range c.Views() {
		pids, err := c.sys.procs(v.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(pids, pid) {
			t.Errorf("process %d is not in %s: %v", pid, v.Dir, pids)
		}
	}
}

func TestKillWithoutCgroupKill(t *testing.T) { everywhere(t, testKillWithoutCgroupKill) }

func testKillWithoutCgroupKill(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	p := role(t, c, "idle")
	if err := c.killFrozen(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if p.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
		t.Error(p.ProcessState)
	}
}

func TestFreeze(t *testing.T) { everywhere(t, testFreeze) }

func testFreeze(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	p := role(t, c, "idle")
	if err := c.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.stdin.Close() // it would end now
	if pids, err := c.Procs(); err != nil || len(pids) != 1 {
		t.Errorf("frozen: %v, %v", pids, err)
	}
	if err := c.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestOOM(t *testing.T) { everywhere(t, testOOM) }

func testOOM(t *testing.T, s *System) {
	limit := int64(32 << 20)
	c := createIn(t, s, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	if n, err := c.OOMKills(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	p := role(t, c, "oom")
	p.Wait()
	if n, err := c.OOMKills(); n != 1 || err != nil {
		t.Errorf("%d kills, %v; process ended with %v", n, err, p.ProcessState)
	}
}

func TestStats(t *testing.T) { everywhere(t, testStats) }

func testStats(t *testing.T, s *System) {
	r := limited()
	r.CPU.Quota = ptr(int64(5000)) // so little that it is reached on a busy host as well
	c := createIn(t, s, r)
	p := role(t, c, "memory")
	cpu := role(t, c, "cpu")
	st, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Detail()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, %+v", st, d)
	m := st.Memory
	for what, ok := range map[string]bool{
		"cpu usage":    st.CPU.Usage >= 40e6 && st.CPU.Usage < 60e9,
		"user":         d.CPU.User > 0 && d.CPU.User <= st.CPU.Usage+100e6,
		"throttled":    d.CPU.Periods > 0 && d.CPU.ThrottledPeriods > 0 && d.CPU.ThrottledTime > 0,
		"memory usage": m.Usage > 32<<20 && m.Usage < 128<<20,
		"rss":          m.RSS > 32<<20 && m.RSS <= m.Usage,
		"working set":  m.WorkingSet >= m.RSS && m.WorkingSet <= m.Usage,
		"limit":        m.Limit == 128<<20 && m.SwapLimit == 0,
		"page faults":  m.PageFaults > 100,
		"pids":         d.Threads >= 2,
		"cpu pressure": c.unified == nil || st.CPU.Pressure != nil && st.CPU.Pressure.Some.Total > 0,
		"io pressure":  c.unified == nil || st.IO.Pressure != nil,
		"time":         time.Since(st.Time) < time.Minute,
	} {
		if !ok {
			t.Errorf("%s is not plausible", what)
		}
	}
	p.stdin.Close()
	cpu.stdin.Close()
	p.Wait()
	cpu.Wait()
	if err := c.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stats of a removed group: %v", err)
	}
}

func TestUpdate(t *testing.T) { everywhere(t, testUpdate) }

func testUpdate(t *testing.T, s *System) {
	c := createIn(t, s, limited())
	role(t, c, "memory")
	r := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(-1))},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(256 << 20)), Swap: ptr(int64(256 << 20))},
	}
	if _, err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c, "memory.limit_in_bytes", "memory.max"); got != "268435456" {
		t.Error("memory", got)
	}
	if got := read(t, c, "cpu.cfs_quota_us", "cpu.max"); got != "-1" && got != "max 100000" {
		t.Error("quota", got)
	}
	if got := read(t, c, "pids.max", "pids.max"); got != "50" {
		t.Error("pids", got)
	}
}

// TestUpdateIsAllOrNothing: every limit is as before when one of them fails,
// whichever the kernel refuses and in whatever order they are written.
func TestUpdateIsAllOrNothing(t *testing.T) { everywhere(t, testUpdateIsAllOrNothing) }

func testUpdateIsAllOrNothing(t *testing.T, s *System) {
	c := createIn(t, s, limited())
	role(t, c, "memory")
	before, err := c.snapshot(noLimits)
	if err != nil {
		t.Fatal(err)
	}
	good := func() *specs.LinuxResources {
		return &specs.LinuxResources{
			CPU:    &specs.LinuxCPU{Shares: ptr(uint64(2048)), Quota: ptr(int64(20000)), Period: ptr(uint64(50000)), Cpus: "0-1"},
			Memory: &specs.LinuxMemory{Limit: ptr(int64(512 << 20)), Swap: ptr(int64(512 << 20))},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(70))},
		}
	}
	for name, spoil := range map[string]func(*specs.LinuxResources){
		"quota below the least":  func(r *specs.LinuxResources) { r.CPU.Quota = ptr(int64(1)) },
		"more pids than exist":   func(r *specs.LinuxResources) { r.Pids.Limit = ptr(int64(1 << 40)) },
		"memory below its usage": func(r *specs.LinuxResources) { r.Memory.Limit, r.Memory.Swap = ptr(int64(8<<20)), ptr(int64(8<<20)) },
		"pids, memory lowered": func(r *specs.LinuxResources) {
			r.Memory.Limit, r.Memory.Swap, r.Pids.Limit = ptr(int64(64<<20)), ptr(int64(64<<20)), ptr(int64(1<<40))
		},
		"no such processor": func(r *specs.LinuxResources) { r.CPU.Cpus = "4000" },
	} {
		r := good()
		spoil(r)
		_, err := c.Update(t.Context(), r)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		after, err := c.snapshot(noLimits)
		if err != nil {
			t.Fatal(err)
		}
		for i := range before {
			if before[i] != after[i] {
				t.Errorf("%s: %s was %q, is %q", name, before[i].name, before[i].value, after[i].value)
			}
		}
	}
}

func TestRemoveWaitsForTheEnd(t *testing.T) { everywhere(t, testRemoveWaitsForTheEnd) }

func testRemoveWaitsForTheEnd(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	p := role(t, c, "idle")
	removed := make(chan error, 1)
	go func() { removed <- c.sys.Remove(t.Context(), c.Path) }()
	p.stdin.Close()
	p.Wait()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	for _, v := range c.Views() {
		if _, err := os.Stat(v.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left", v.Dir)
		}
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Errorf("second time: %v", err)
	}
}

func TestRemoveEndsWithItsContext(t *testing.T) { everywhere(t, testRemoveEndsWithItsContext) }

func testRemoveEndsWithItsContext(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	p := role(t, c, "idle")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := c.sys.Remove(ctx, c.Path)
	if took := time.Since(began); took > maxWait/2 {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "processes [") {
		t.Errorf("got %v", err)
	}
	joinedEverywhere(t, c, p.Process.Pid)
}

func TestWaitExits(t *testing.T) {
	c := create(t, nil)
	p := role(t, c, "idle")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := c.sys.waitExits(ctx, c.Path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it runs: %v", err)
	}
	if took := time.Since(began); took > maxWait/2 {
		t.Errorf("it took %v", took)
	}
	p.stdin.Close()
	var reaped sync.WaitGroup
	reaped.Go(func() { p.Wait() })
	if err := c.sys.waitExits(t.Context(), c.Path); err != nil {
		t.Error(err)
	}
	reaped.Wait() // before start's own
}

func TestRemoveWithGroupsBelow(t *testing.T) { everywhere(t, testRemoveWithGroupsBelow) }

func testRemoveWithGroupsBelow(t *testing.T, s *System) {
	c := createIn(t, s, nil)
	for _, v := range c.Views() {
		if err := os.MkdirAll(path.Join(v.Dir, "a/b/c"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCreateTakesOverOnlyWhatIsEmpty(t *testing.T) {
	c := create(t, nil)
	again, err := c.sys.Create(t.Context(), c.Path, limited())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	role(t, c, "idle")
	_, err = c.sys.Create(t.Context(), c.Path, nil)
	if err == nil || !strings.Contains(err.Error(), "is in it") {
		t.Errorf("got %v", err)
	}
	if pids, err := c.Procs(); err != nil || len(pids) != 1 {
		t.Errorf("the process did not survive: %v, %v", pids, err)
	}
}

func TestCreateLeavesNothingOnFailure(t *testing.T) {
	s := system(t)
	p := path.Join(base, random())
	t.Cleanup(func() { destroy(t, s, p) })
	for name, r := range map[string]*specs.LinuxResources{
		"pids":   {Pids: &specs.LinuxPids{Limit: ptr(int64(1 << 40))}},
		"cpuset": {CPU: &specs.LinuxCPU{Cpus: "4000"}},
		"device": {Devices: []specs.LinuxDeviceCgroup{{Type: "x", Access: "r"}}},
	} {
		_, err := s.Create(t.Context(), p, r)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		t.Log(err)
		for _, dir := range s.dirs(p) {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s: %s is left", name, dir)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	c := create(t, nil)
	again, err := c.sys.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := c.sys.Open(c.Path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "/", "a", "/a/../b", "/a/"} {
		if _, err := c.sys.Open(bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

// TestParents: pods that come and go share parents, which are removed while
// others are made below them.
func TestParents(t *testing.T) {
	s := system(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 25 {
				p := path.Join(base, "parents", random())
				c, err := s.Create(t.Context(), p, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Remove(t.Context()); err != nil {
					t.Error(err)
				}
				if err := s.RemoveEmptyParents(p, base); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if left := leftovers(); len(left) > 0 {
		t.Error("left:", left)
	}
}

func TestList(t *testing.T) {
	c := create(t, nil)
	parent, name := path.Split(c.Path)
	names, err := c.sys.List(path.Clean(parent))
	if err != nil || len(names) != 1 || names[0] != name {
		t.Errorf("got %v, %v", names, err)
	}
	if names, err := c.sys.List(base + "-none"); err != nil || len(names) != 0 {
		t.Errorf("got %v, %v", names, err)
	}
}

// noLimits name no v2 file of their own.
var noLimits = &cgroups.Resources{}
