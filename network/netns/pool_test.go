package netns

import (
	"context"
	"fmt"
	"io"
	"maps"
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

// nothingMade is a pool whose sets have no links.
func nothingMade(size int) *Pool {
	return &Pool{Size: size, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}, NewID: func() string { return "an id" },
		Connect: func(context.Context, string, int) (io.Closer, error) { return nil, nil }}
}

// A set from the pool is like one made on the spot: of the pod's own, furnished,
// and never given twice.
func TestPoolGivesFurnishedSets(t *testing.T) {
	p := nothingMade(2)
	p.Fill()
	p.waitFull()
	seen := map[uint64]bool{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		p.waitFull()
		opts := Options{IPC: true, UTS: true, Hostname: name, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"}}
		set := p.Take(opts)
		if set == nil {
			t.Fatal("the full pool has nothing")
		}
		if err := p.Settle(set, opts); err != nil {
			t.Fatal(err)
		}
		p.Fill()
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

// closed counts how often what Connect made was closed.
type closed int

func (c *closed) Close() error { *c++; return nil }

// What is ready has the sysctls and the link that nearly every pod has; whoever wants
// another of net.* gets a namespace without a link: an interface takes over what is set
// when it is made.
func TestPoolConnects(t *testing.T) {
	links := map[string]*closed{}
	p := nothingMade(2)
	usual := p.Sysctls
	p.NewID = func() string { return fmt.Sprint(len(links)) }
	p.Connect = func(_ context.Context, id string, netns int) (io.Closer, error) {
		links[id] = new(closed)
		return links[id], nil
	}
	p.Fill()
	p.waitFull()
	with := func(key, value string) Options {
		sysctls := maps.Clone(usual)
		sysctls[key] = value
		return Options{IPC: true, UTS: true, Hostname: "pod", Sysctls: sysctls}
	}
	for _, opts := range []Options{
		with("net.ipv4.conf.default.rp_filter", "1"), with("net.core.somaxconn", "99"), with("net/ipv4/ip_forward", "1"),
		with("net.ipv4.ip_unprivileged_port_start", "8"), {IPC: true, UTS: true}, {UTS: true, Sysctls: usual},
	} {
		if set := p.Take(opts); set != nil {
			t.Errorf("%+v: got a set", opts)
			set.Close()
		}
	}
	opts := with("kernel.shm_rmid_forced", "1")
	set := p.Take(opts)
	if set == nil || set.Link != links[set.ID] {
		t.Fatalf("set %+v", set)
	}
	if err := p.Settle(set, opts); err != nil {
		t.Fatal(err)
	}
	checkInside(t, set, "pod")
	set.Close()
	p.Close()
	if len(links) != 2 {
		t.Errorf("%d were connected", len(links))
	}
	for _, l := range links {
		if *l != 1 {
			t.Errorf("a link was closed %d times", *l)
		}
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
	p := nothingMade(4)
	p.Fill()
	defer p.Close()
	for b.Loop() {
		b.StopTimer()
		p.waitFull()
		b.StartTimer()
		opts := Options{IPC: true, UTS: true, Hostname: "web", Sysctls: p.Sysctls}
		set := p.Take(opts)
		if err := p.Settle(set, opts); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		p.Fill()
		set.Close()
		b.StartTimer()
	}
}
