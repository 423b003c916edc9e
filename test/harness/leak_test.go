package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

func TestMain(m *testing.M) { Main(m) }

// An id as pods and containers have them.
const plantedID = "1f2e3d4c5b6a79881f2e3d4c5b6a79881f2e3d4c5b6a79881f2e3d4c5b6a7988"

// Each case leaves one thing behind and names the line that has to be printed.
// A leak check that finds nothing when there is something proves nothing.
var plants = []struct {
	name  string
	plant func(t *testing.T, i *Instance) (want string)
}{
	{"process by its arguments", func(t *testing.T, i *Instance) string {
		if err := os.WriteFile(i.Log(), nil, 0o644); err != nil { // expected to stay
			t.Fatal(err)
		}
		cmd := start(t, exec.Command("tail", "-f", i.Log()))
		return fmt.Sprintf("process %d: tail -f %s", cmd.Process.Pid, i.Log())
	}},
	{"process in the node's network", func(t *testing.T, i *Instance) string {
		var cmd *exec.Cmd
		if err := i.Node.Do(func() error { cmd = start(t, exec.Command("sleep", "1000")); return nil }); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("process %d: sleep 1000", cmd.Process.Pid)
	}},
	{"process with the instance's files in a mount namespace of its own", func(t *testing.T, i *Instance) string {
		mkdir(t, i.State) // expected to stay
		cmd := exec.Command("sh", "-c", `mount -t tmpfs "$0" "$1" && echo ok && exec sleep 1000`, i.State, t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		start(t, cmd)
		out.Read(make([]byte, 2))
		within(stopTimeout, func() bool { return strings.HasPrefix(readProcFile(cmd.Process.Pid, "cmdline"), "sleep") })
		return fmt.Sprintf("process %d: sleep 1000", cmd.Process.Pid)
	}},
	{"mount", func(t *testing.T, i *Instance) string {
		mkdir(t, i.Root)
		if err := syscall.Mount("none", i.Root, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(i.Root, syscall.MNT_DETACH) })
		return "mount " + i.Root
	}},
	{"netns", func(t *testing.T, i *Instance) string {
		if _, err := os.Stat(netnsDir); err != nil {
			mkdir(t, netnsDir)
			t.Cleanup(func() { os.Remove(netnsDir) })
		}
		pin := filepath.Join(netnsDir, i.Name+"-"+plantedID[:12])
		if err := os.WriteFile(pin, nil, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(pin) })
		return "netns " + pin
	}},
	{"cgroup by name", func(t *testing.T, i *Instance) string { return plantCgroup(t, i.Name) }},
	{"cgroup by id", func(t *testing.T, i *Instance) string {
		i.ids = append(i.ids, plantedID)
		return plantCgroup(t, "kubepods-"+plantedID)
	}},
	{"file in state", func(t *testing.T, i *Instance) string {
		mkdir(t, filepath.Join(i.State, "forgotten"))
		return "file state/forgotten"
	}},
	{"file in root", func(t *testing.T, i *Instance) string {
		mkdir(t, filepath.Join(i.Root, "forgotten"))
		return "file root/forgotten"
	}},
	{"link", func(t *testing.T, i *Instance) string {
		inNode(t, i, func(h *netlink.Handle) error { return h.LinkAdd(veth("cbforgotten")) })
		return "network link cbforgotten"
	}},
	{"address", func(t *testing.T, i *Instance) string {
		inNode(t, i, func(h *netlink.Handle) error {
			return h.AddrAdd(loopback(t, h), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 9, 9, 9), Mask: net.CIDRMask(32, 32)}})
		})
		return "network address 127.9.9.9/32 on lo"
	}},
	{"route", func(t *testing.T, i *Instance) string {
		_, dst, _ := net.ParseCIDR("10.9.9.9/32")
		inNode(t, i, func(h *netlink.Handle) error {
			return h.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: loopback(t, h).Attrs().Index})
		})
		return "network route 10.9.9.9/32 via <nil> table 254 type 1"
	}},
	{"route in another table", func(t *testing.T, i *Instance) string {
		_, dst, _ := net.ParseCIDR("10.9.9.9/32")
		inNode(t, i, func(h *netlink.Handle) error {
			return h.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: loopback(t, h).Attrs().Index, Table: 99})
		})
		return "network route 10.9.9.9/32 via <nil> table 99 type 1"
	}},
	{"rule", func(t *testing.T, i *Instance) string {
		rule := netlink.NewRule()
		rule.Table, rule.Priority = 99, 9
		inNode(t, i, func(h *netlink.Handle) error { return h.RuleAdd(rule) })
		return "network rule ip rule 9: from all to all table 99 "
	}},
	{"nft table", func(t *testing.T, i *Instance) string {
		plantTable(t, i, false)
		return "network nft table " + i.Name
	}},
}

func TestLeakCheckFinds(t *testing.T) {
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			i := prepare(t)
			if left := i.leftovers(); len(left) != 0 {
				t.Fatalf("found before anything was planted: %v", left)
			}
			want := p.plant(t, i)
			var lines []string
			for _, l := range i.leftovers() {
				lines = append(lines, strings.TrimSpace(l.String()))
			}
			if !slices.Contains(lines, strings.TrimSpace(want)) {
				t.Errorf("found %q, wanted %q among it", lines, want)
			}
		})
	}
}

// TestLeakCheckLeavesStrangers: what the check finds it kills. Somebody's mount namespace
// that was copied while the instance had a mount keeps that one.
func TestLeakCheckLeavesStrangers(t *testing.T) {
	i := prepare(t)
	mkdir(t, i.State)
	if err := syscall.Mount("none", i.State, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	start(t, cmd)
	if err := syscall.Unmount(i.State, 0); err != nil {
		t.Fatal(err)
	}
	if !i.ours(readProcFile(cmd.Process.Pid, "mountinfo")) {
		t.Error("the stranger has no copy of the mount")
	}
	if left := i.leftovers(); len(left) != 0 {
		t.Errorf("found %v", left)
	}
}

func TestLeakCheckFindsElements(t *testing.T) {
	i := prepare(t)
	plantTable(t, i, true)
	want := "network nft element 1f90 in " + i.Name + " ports pod"
	if left := i.leftovers(); !slices.ContainsFunc(left, func(l Leftover) bool { return l.String() == want }) {
		t.Errorf("found %v, wanted %q among it", left, want)
	}
}

// TestLeakCheckFindsDescriptors looks at this process as if it were serve.
func TestLeakCheckFindsDescriptors(t *testing.T) {
	i := prepare(t)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	i.proc = &process{cmd: &exec.Cmd{Process: self}}
	held := filepath.Join(i.State, "containers", plantedID)
	mkdir(t, filepath.Dir(held))
	f, err := os.OpenFile(held, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	node, err := i.Node.Inode() // held by i.Node itself
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"descriptor of serve: " + held, "descriptor of serve: " + node} {
		if left := i.leftInCustody(); !slices.ContainsFunc(left, func(l Leftover) bool { return l.String() == want }) {
			t.Errorf("found %v, wanted %q among it", left, want)
		}
	}
	if i.ofAPod(os.Getpid(), Namespace(os.Getpid(), "net")) {
		t.Error("a process's own namespace was found")
	}
}

func TestHostSnapshot(t *testing.T) {
	before := hostSnapshot()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(dir, 0)
	if diff := before.diff(hostSnapshot()); !slices.Contains(diff, "mount "+dir) {
		t.Errorf("the diff %q does not name the mount on %s", diff, dir)
	}
}

func start(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	// Start returns when execve(2) closes descriptors, which is before the process has arguments.
	if !within(stopTimeout, func() bool { return readProcFile(cmd.Process.Pid, "cmdline") != "" }) {
		t.Fatalf("%s has no arguments", cmd.Path)
	}
	return cmd
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// plantCgroup makes a cgroup of that name in the first hierarchy.
func plantCgroup(t *testing.T, name string) (want string) {
	t.Helper()
	for _, m := range hostMounts() {
		if m.fstype == "cgroup" || m.fstype == "cgroup2" {
			dir := filepath.Join(m.target, name)
			mkdir(t, dir)
			t.Cleanup(func() { os.Remove(dir) })
			return "cgroup " + dir
		}
	}
	t.Fatal("no cgroup file system is mounted")
	return ""
}

func inNode(t *testing.T, i *Instance, fn func(*netlink.Handle) error) {
	t.Helper()
	h, err := i.Node.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := fn(h); err != nil {
		t.Fatal(err)
	}
}

func veth(name string) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-p"}
}

func loopback(t *testing.T, h *netlink.Handle) netlink.Link {
	t.Helper()
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo
}

// plantTable makes the instance's nftables table, if asked with an element.
func plantTable(t *testing.T, i *Instance, element bool) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(i.Node.fd.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: i.Name})
	if element {
		set := &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeInetService}
		if err := c.AddSet(set, []nftables.SetElement{{Key: []byte{0x1f, 0x90}, Comment: "pod"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}
