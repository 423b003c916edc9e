package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestEveryLimitOfV2 sets what only cgroup v2 has, and all at once. On other hosts
// it is refused by name.
func TestEveryLimitOfV2(t *testing.T) {
	s := system(t)
	r := limited()
	r.Unified = map[string]string{"memory.high": "100663296", "memory.oom.group": "1", "memory.min": "1048576"}
	if s.Mode != V2 {
		_, err := s.Create(t.Context(), path.Join(base, random(), random()), r)
		if err == nil || !strings.Contains(err.Error(), "memory.high): need cgroup v2") {
			t.Errorf("unified limits on %s: %v", s.Mode, err)
		}
		return
	}
	r.Memory.Swap = ptr(int64(192 << 20)) // memory and swap, as in the runtime-spec
	r.CPU.Mems = "0"
	major, minor := disk(t)
	r.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(major, minor, 1<<20)},
		ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttle(major, minor, 100)}}
	r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
	c := createIn(t, s, r)
	expect(t, c, [][3]string{{"", "memory.max", "134217728"}, {"", "memory.high", "100663296"}, {"", "memory.min", "1048576"},
		{"", "memory.oom.group", "1"}, {"", "memory.swap.max", "67108864"}, {"", "pids.max", "50"}, {"", "cpu.max", "50000 100000"},
		{"", "cpuset.cpus", "0"}, {"", "cpuset.mems", "0"}, {"", "hugetlb.2MB.max", "4194304"}, {"", "hugetlb.2MB.rsvd.max", "4194304"},
		{"", "io.max", fmt.Sprintf("%d:%d rbps=1048576 wbps=max riops=max wiops=100", major, minor)}})
}

// TestOOMGroup: all of the group end with the one that took too much, and the count
// is there.
func TestOOMGroup(t *testing.T) {
	s := system(t)
	limit := int64(32 << 20)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	want := uint64(1) // v1 kills the one
	if s.Mode == V2 {
		r.Unified, want = map[string]string{"memory.oom.group": "1"}, 2
	}
	c := createIn(t, s, r)
	bystander := role(t, c, "cpu")
	role(t, c, "oom").Wait()
	if s.Mode != V2 {
		bystander.stdin.Close()
	}
	bystander.Wait()
	if n, err := c.OOMKills(); n < want || err != nil {
		t.Errorf("%d kills, %v; wanted at least %d", n, err, want)
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	var d specs.LinuxThrottleDevice
	d.Major, d.Minor, d.Rate = major, minor, rate
	return d
}

// disk is a block device of this machine.
func disk(t *testing.T) (major, minor int64) {
	t.Helper()
	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if strings.HasPrefix(d.Name(), "loop") || strings.HasPrefix(d.Name(), "ram") {
			continue
		}
		number, err := os.ReadFile(path.Join("/sys/block", d.Name(), "dev"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil {
			t.Fatal(err)
		}
		return major, minor
	}
	t.Fatal("this machine has no disk")
	return 0, 0
}

// TestCreateWhileControllersGo: systemd takes the controllers away from a slice with
// its last scope, at any moment of the next one's creation.
func TestCreateWhileControllersGo(t *testing.T) {
	s := system(t)
	slice := path.Join(base, random()+".slice")
	first := path.Join(slice, random()+".scope")
	t.Cleanup(func() { destroy(t, s, first) })
	if _, err := s.Create(t.Context(), first, nil); err != nil {
		t.Fatal(err)
	}
	if s.Mode != V2 {
		return // there systemd does not
	}
	for n := range 300 {
		taken := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(n) * 20 * time.Microsecond)
			taken <- os.WriteFile(path.Join(s.unifiedDir(slice), "cgroup.subtree_control"), []byte("-memory -pids -cpu"), 0)
		}()
		at := path.Join(slice, random()+".scope")
		c, err := s.Create(t.Context(), at, limited())
		if err := errors.Join(err, <-taken); err != nil {
			t.Fatalf("taken away %d us after the beginning: %v", n*20, err)
		}
		c.Close()
		if err := s.Remove(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
}
