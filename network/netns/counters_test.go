package netns

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestCounters: each namespace's own interfaces with the kernel's numbers, lo left
// out, and very many cut off.
func TestCounters(t *testing.T) {
	few, many := mustNew(t, Options{}), mustNew(t, Options{})
	var want [16]uint64
	inside(t, few, func() error {
		if err := addPair("eth0", "net1"); err != nil {
			return err
		}
		if err := sendFrom("10.1.0.1/24", "eth0", "10.1.0.9:9"); err != nil {
			return err
		}
		var err error
		want, err = procNetDev("eth0")
		return err
	})
	inside(t, many, func() error {
		for i := range maxInterfaces/2 + 5 {
			if err := addPair(fmt.Sprint("a", i), fmt.Sprint("b", i)); err != nil {
				return err
			}
		}
		return nil
	})
	c := NewCounter()
	defer c.Close()
	for range 2 {
		got, err := c.Interfaces(int(few.Net.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
		if len(got) != 2 || got[0].Name != "eth0" || got[1].Name != "net1" {
			t.Fatalf("interfaces: %+v", got)
		}
		tx := Traffic{Bytes: want[8], Packets: want[9], Errors: want[10], Dropped: want[11]}
		if got[0].TX != tx || tx.Bytes == 0 || got[0].RX != (Traffic{}) || got[1].RX.Packets != tx.Packets {
			t.Errorf("eth0: %+v, wanted to have transmitted %+v", got[0], tx)
		}
		if got, err = c.Interfaces(int(many.Net.Fd())); err != nil || len(got) != maxInterfaces {
			t.Errorf("of many: %d, %v", len(got), err)
		}
	}
	if _, err := c.Interfaces(-1); err == nil {
		t.Error("no namespace has interfaces")
	}
}

func inside(t *testing.T, set *Set, fn func() error) {
	t.Helper()
	if err := Do(int(set.Net.Fd()), fn); err != nil {
		t.Fatal(err)
	}
}

func addPair(name, peer string) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer})
}

// sendFrom gives the interface an address and sends some packets through it.
func sendFrom(address, name, to string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.LinkSetARPOff(link); err != nil {
		return err
	}
	// Without IPv6 there is nothing that sends by itself.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil {
		return err
	}
	peer, err := netlink.LinkByName("net1")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range 5 {
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			return err
		}
	}
	return nil
}

// procNetDev reads the same numbers from the kernel's text.
func procNetDev(name string) (out [16]uint64, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return out, err
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(before) != name {
			continue
		}
		for i, f := range strings.Fields(after) {
			if _, err := fmt.Sscan(f, &out[i]); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func BenchmarkCounters(b *testing.B) {
	set := mustNew(b, Options{})
	c := NewCounter()
	defer c.Close()
	for b.Loop() {
		if _, err := c.Interfaces(int(set.Net.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}
