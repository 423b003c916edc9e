package netns

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// waitFull waits until the pool has all its sets.
func (p *Pool) waitFull() {
	for {
		p.mu.Lock()
		n := len(p.ready)
		p.mu.Unlock()
		if n == p.Size {
			return
		}
		runtime.Gosched()
	}
}

// A set from the pool is like one made on the spot: of the pod's own, furnished,
// and never given twice.
func TestPoolGivesFurnishedSets(t *testing.T) {
	p := &Pool{Size: 2}
	p.Fill()
	p.waitFull()
	seen := map[uint64]bool{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		set, err := p.New(t.Context(), Options{IPC: true, UTS: true, Hostname: name,
			Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { set.Close() })
		var st unix.Stat_t
		if err := unix.Fstat(int(set.Net.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if seen[st.Ino] {
			t.Errorf("namespace %d was given twice", st.Ino)
		}
		seen[st.Ino] = true
		checkInside(t, set, name)
	}
	p.waitFull()
	p.Close()
	if len(p.ready) != 0 {
		t.Error("the closed pool has sets")
	}
}

func checkInside(t *testing.T, set *Set, name string) {
	t.Helper()
	done := make(chan error, 1)
	onOwnThread(func() {
		for _, f := range []*os.File{set.Net, set.IPC, set.UTS} {
			if err := unix.Setns(int(f.Fd()), 0); err != nil {
				done <- err
				return
			}
		}
		for file, want := range map[string]string{"kernel/hostname": name, "net/ipv4/ip_unprivileged_port_start": "7", "kernel/shm_rmid_forced": "1"} {
			got, err := os.ReadFile(filepath.Join("/proc/sys", file))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, %v; want %s", file, got, err, want)
			}
		}
		done <- nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkPool(b *testing.B) {
	p := &Pool{Size: 4}
	p.Fill()
	defer p.Close()
	for b.Loop() {
		b.StopTimer()
		p.waitFull()
		b.StartTimer()
		set, err := p.New(b.Context(), Options{IPC: true, UTS: true, Hostname: "web"})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		set.Close()
		b.StartTimer()
	}
}
