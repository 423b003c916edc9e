package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func mustNew(t testing.TB, opts Options) *Set {
	t.Helper()
	set, err := New(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	return set
}

func TestNewIsNewAndTheProcessStays(t *testing.T) {
	before := map[string]uint64{}
	for _, ns := range []string{"net", "ipc", "uts"} {
		before[ns] = inode(t, "/proc/self/ns/"+ns)
	}
	seen := map[uint64]bool{}
	for range 50 {
		set := mustNew(t, Options{IPC: true, UTS: true, Hostname: "web-0"})
		for ns, f := range map[string]*os.File{"net": set.Net, "ipc": set.IPC, "uts": set.UTS} {
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			if st.Ino == before[ns] || seen[st.Ino] {
				t.Fatalf("%s namespace %d is not new", ns, st.Ino)
			}
			seen[st.Ino] = true
		}
	}
	for ns, want := range before {
		if got := inode(t, "/proc/self/ns/"+ns); got != want {
			t.Errorf("the process's own %s namespace is %d now, was %d", ns, got, want)
		}
	}
}

func TestNewWithoutOptionsMakesOnlyNet(t *testing.T) {
	set := mustNew(t, Options{})
	if set.Net == nil || set.IPC != nil || set.UTS != nil {
		t.Fatalf("got %+v", set)
	}
}

func TestInside(t *testing.T) {
	set := mustNew(t, Options{IPC: true, UTS: true, Hostname: "web-0", Sysctls: map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net/ipv4/conf/default/forwarding":    "1",
		"kernel.shm_rmid_forced":              "1",
		"fs.mqueue.msg_max":                   "99",
	}})
	err := Do(int(set.Net.Fd()), func() error {
		for _, f := range []*os.File{set.IPC, set.UTS} {
			if err := unix.Setns(int(f.Fd()), 0); err != nil {
				return err
			}
		}
		name, err := os.ReadFile("/proc/sys/kernel/hostname")
		if err != nil || string(name) != "web-0\n" {
			t.Errorf("hostname is %q, %v", name, err)
		}
		for path, want := range map[string]string{
			"net/ipv4/ip_unprivileged_port_start": "0",
			"net/ipv4/conf/default/forwarding":    "1",
			"kernel/shm_rmid_forced":              "1",
			"fs/mqueue/msg_max":                   "99",
		} {
			got, err := os.ReadFile("/proc/sys/" + path)
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, want %s, %v", path, got, want, err)
			}
		}
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		addrs, err := lo.Addrs()
		if err != nil || lo.Flags&net.FlagUp == 0 || len(addrs) != 2 {
			t.Errorf("lo has flags %v and addresses %v, %v", lo.Flags, addrs, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"net/ipv4/ip_unprivileged_port_start", "fs/mqueue/msg_max", "kernel/shm_rmid_forced"} {
		got, _ := os.ReadFile("/proc/sys/" + path)
		if s := strings.TrimSpace(string(got)); s == "99" || s == "1" || (strings.HasPrefix(path, "net") && s == "0") {
			t.Errorf("the host's %s became %s", path, s)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"host sysctl":     {Options{IPC: true, UTS: true, Sysctls: map[string]string{"kernel.core_pattern": "|x"}}, "would change the whole host"},
		"vm":              {Options{Sysctls: map[string]string{"vm.swappiness": "1"}}, "would change the whole host"},
		"climbs":          {Options{Sysctls: map[string]string{"net/../kernel/core_pattern": "|x"}}, "not a sysctl name"},
		"dots climb":      {Options{Sysctls: map[string]string{"net.//.kernel.core_pattern": "|x"}}, "not a sysctl name"},
		"ipc not own":     {Options{Sysctls: map[string]string{"kernel.shmmax": "1"}}, "no ipc namespace of its own"},
		"uts not own":     {Options{Sysctls: map[string]string{"kernel.domainname": "x"}}, "no uts namespace of its own"},
		"hostname no uts": {Options{Hostname: "x"}, "no UTS namespace"},
		"hostname long":   {Options{UTS: true, Hostname: strings.Repeat("x", 65)}, "at most 64"},
		"no such":         {Options{Sysctls: map[string]string{"net.ipv4.nonsense": "1"}}, "net.ipv4.nonsense"},
		"bad value":       {Options{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "many"}}, `to "many"`},
	} {
		set, err := New(context.Background(), tc.opts)
		if err == nil {
			set.Close()
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("client went away")
	cancel(reason)
	for range 20 {
		set, err := New(ctx, Options{})
		if err != nil && !errors.Is(err, reason) {
			t.Fatal(err)
		}
		if set != nil {
			set.Close()
		}
	}
}

func TestSplitSysctls(t *testing.T) {
	now, later := SplitSysctls(map[string]string{
		"net.ipv4.conf.eth0.rp_filter":        "1",
		"net/ipv6/neigh/eth0/gc_stale_time":   "1",
		"net.ipv4.conf.eth0/1.rp_filter":      "1",
		"net.ipv4.conf.all.rp_filter":         "1",
		"net.ipv4.ip_unprivileged_port_start": "0",
		"kernel.shmmax":                       "1",
	})
	if len(now) != 3 || len(later) != 3 {
		t.Errorf("now %v, later %v", now, later)
	}
	set := mustNew(t, Options{})
	if err := WriteSysctls(int(set.Net.Fd()), map[string]string{"net.ipv4.conf.lo.rp_filter": "2"}); err != nil {
		t.Error(err)
	}
	if err := WriteSysctls(int(set.Net.Fd()), map[string]string{"kernel.shmmax": "1"}); err == nil {
		t.Error("an ipc sysctl was written from a network namespace")
	}
}

func TestDo(t *testing.T) {
	set := mustNew(t, Options{})
	want := inode(t, "/proc/self/fd/"+itoa(set.Net))
	boom := errors.New("boom")
	var got uint64
	err := Do(int(set.Net.Fd()), func() error { got = inode(t, "/proc/thread-self/ns/net"); return boom })
	if err != boom || got != want {
		t.Errorf("ran in %d, want %d; error %v", got, want, err)
	}
	if err := Do(int(os.Stdin.Fd()), func() error { return nil }); err == nil {
		t.Error("entered stdin")
	}
}

func TestPin(t *testing.T) {
	inOwnMountNamespace(t, func(dir string) {
		set, other := mustNew(t, Options{}), mustNew(t, Options{})
		fd, path := int(set.Net.Fd()), filepath.Join(dir, "netns", "cb-0123")
		for range 2 { // the second is a repetition after a crash
			if err := Pin(fd, path); err != nil {
				t.Error(err)
			}
		}
		if got, want := inode(t, path), inode(t, "/proc/self/fd/"+itoa(set.Net)); got != want {
			t.Errorf("pinned %d, want %d", got, want)
		}
		if err := Pin(int(other.Net.Fd()), path); !errors.Is(err, unix.EEXIST) {
			t.Errorf("another namespace pinned over it: %v", err)
		}
		mounts := mountsBelow(t, filepath.Join(dir, "netns"))
		if len(mounts) != 2 || !strings.Contains(mounts[0], "shared:") {
			t.Errorf("mounts: %q", mounts)
		}
		for range 2 {
			if err := Unpin(path); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("file is still there: %v", err)
		}
		// A file without a mount is what a killed Pin leaves.
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Error(err)
		}
		if err := Pin(fd, path); err != nil {
			t.Error(err)
		}
		if err := Unpin(path); err != nil || len(mountsBelow(t, filepath.Join(dir, "netns"))) != 1 {
			t.Error("not unpinned", err)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	opts := Options{IPC: true, UTS: true, Hostname: "web-0", Sysctls: map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}}
	for b.Loop() {
		set, err := New(context.Background(), opts)
		if err != nil {
			b.Fatal(err)
		}
		set.Close()
	}
}
