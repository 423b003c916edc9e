package routed

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

func TestPodToPod(t *testing.T) {
	l := newLab(t)
	a, b := l.pod(), l.pod()
	l.serve(b.NetNS, "b", ":80")
	l.expect(a.NetNS, b.v4, "80", "b "+a.v4)
	l.expect(a.NetNS, b.v6, "80", "b "+a.v6)
	l.serve(a.NetNS, "a", ":80")
	l.expect(b.NetNS, a.v4, "80", "a "+b.v4)
	l.expect(a.NetNS, a.v4, "80", "a "+a.v4) // itself, by lo
}

func TestPodAndNode(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	l.serve(l.node, "node", ":81")
	l.expect(p.NetNS, node4, "81", "node "+p.v4)
	l.expect(p.NetNS, node6, "81", "node "+p.v6)
	l.serve(p.NetNS, "pod", ":80")
	l.expect(l.node, p.v4, "80", "pod "+node4)
	l.expect(l.node, p.v6, "80", "pod "+node6)
}

func TestPodToOutsideHasTheNodesAddress(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	l.serve(l.outside, "world", ":82")
	l.expect(p.NetNS, out4, "82", "world "+node4)
	l.expect(p.NetNS, out6, "82", "world "+node6)
}

// Another node's pods see who asks, and all others the node.
func TestNoMasquerade(t *testing.T) {
	const elsewhere4, elsewhere6 = "192.0.2.129", "2001:db8::ff:1"
	l := newLab(t, func(c *Config) {
		c.NoMasquerade = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/112"), DefaultIPv4, DefaultIPv6}
	})
	l.in(l.outside, func() error { return defaultRoutes(node4, node6) })
	l.in(l.outside, func() error { return address("up0", elsewhere4+"/24", elsewhere6+"/64") })
	l.in(l.node, func() error { return setNeighbour(elsewhere6, outsideMAC) })
	p := l.pod("8080:80/tcp", "8080:80/udp")
	for _, address := range []string{out4, out6, elsewhere4, elsewhere6} { // each alone: an answer by UDP has the address that was asked
		l.serve(l.outside, "host", net.JoinHostPort(address, "82"))
	}
	l.serve(p.NetNS, "pod", ":80")
	l.expect(p.NetNS, out4, "82", "host "+p.v4)
	l.expect(p.NetNS, out6, "82", "host "+p.v6)
	l.expect(p.NetNS, elsewhere4, "82", "host "+node4)
	l.expect(p.NetNS, elsewhere6, "82", "host "+node6)
	l.expect(p.NetNS, node4, "8080", "pod "+node4) // its own port, though its range is the cluster's
	l.expect(p.NetNS, node6, "8080", "pod "+node6)
	l.expect(l.outside, p.v4, "80", "pod "+out4)
	generation := l.generation()
	l.net.Close()
	l.open()
	if got := l.generation(); got != generation {
		t.Errorf("%d nftables transactions by the next daemon, want none", got-generation)
	}
}

func TestHostPort(t *testing.T) {
	l := newLab(t)
	p, other := l.pod("8080:80/tcp", "8080:80/udp"), l.pod()
	l.serve(p.NetNS, "pod", ":80")
	for name, tc := range map[string]struct {
		from     int
		to, want string
	}{
		"outside, v4":            {l.outside, node4, "pod " + out4},
		"outside, v6":            {l.outside, node6, "pod " + out6},
		"outside, other address": {l.outside, other4, "pod " + out4},
		"node to itself, v4":     {l.node, node4, "pod " + node4},
		"node to itself, v6":     {l.node, node6, "pod " + node6},
		"node's loopback":        {l.node, "127.0.0.1", "pod " + node4},
		"another pod, v4":        {other.NetNS, node4, "pod " + other.v4},
		"another pod, v6":        {other.NetNS, node6, "pod " + other.v6},
		"hairpin, v4":            {p.NetNS, node4, "pod " + node4},
		"hairpin, v6":            {p.NetNS, node6, "pod " + node6},
	} {
		t.Run(name, func(t *testing.T) {
			l.t = t
			l.expect(tc.from, tc.to, "8080", tc.want)
		})
	}
	l.t = t
	// Only the port: the same one on the pod's own address or elsewhere is not.
	if answer, err := l.ask(l.outside, "tcp", node4, "8081"); err == nil {
		t.Errorf("port 8081 answered %q", answer)
	}
	if answer, err := l.ask(l.node, "tcp", "::1", "8080"); err == nil {
		t.Errorf("[::1]:8080 answered %q", answer)
	}
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	if answer, err := l.ask(l.outside, "tcp", node4, "8080"); err == nil {
		t.Errorf("after Detach port 8080 answered %q", answer)
	}
}

func TestHostIP(t *testing.T) {
	l := newLab(t)
	a, b := l.pod(node4+":8080:80/tcp", node4+":8080:80/udp"), l.pod(other4+":8080:80/tcp", other4+":8080:80/udp")
	c := l.pod("["+node6+"]:8080:80/tcp", "["+node6+"]:8080:80/udp")
	d := l.pod("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80/udp", "127.0.0.1:9090:80/udp")
	for name, p := range map[string]*testPod{"a": a, "b": b, "c": c, "d": d} {
		l.serve(p.NetNS, name, ":80")
	}
	l.expect(l.outside, node4, "8080", "a "+out4)
	l.expect(l.outside, other4, "8080", "b "+out4)
	l.expect(l.outside, node6, "8080", "c "+out6)
	l.expect(l.node, "127.0.0.1", "8080", "d "+node4)
	if answer, err := l.ask(l.outside, "tcp", node4, "9090"); err == nil {
		t.Errorf("a port on 127.0.0.1 answered %q to the outside", answer)
	}
}

func TestLoopbackPortIsNotForTheNeighbours(t *testing.T) {
	l := newLab(t)
	p := l.pod("127.0.0.1:9090:90/udp", "9091:90/udp")
	box := l.inbox(p.NetNS, ":90")
	l.in(l.outside, func() error { return loopbackBy(node4, "up0") })
	l.send(l.outside, out4, "127.0.0.1:9090", "martian", 5)
	l.send(l.outside, out4, node4+":9091", "last", 1)
	if got := box.untilLast(t); len(got) > 0 {
		t.Errorf("packets for 127.0.0.1 came from outside: %q", got)
	}
}

func TestPodDoesNotReachTheNodesLoopback(t *testing.T) {
	l := newLab(t)
	p := l.pod("8080:80/udp") // so that its interface has route_localnet
	box := l.inbox(l.node, "127.0.0.1:83")
	l.in(p.NetNS, func() error { return loopbackBy("169.254.1.1", "eth0") })
	l.send(p.NetNS, p.v4, "127.0.0.1:83", "martian", 5)
	l.send(l.node, "", "127.0.0.1:83", "last", 1)
	if got := box.untilLast(t); len(got) > 0 {
		t.Errorf("the pod reached the node's loopback: %q", got)
	}
}

// loopbackBy makes the namespace send 127.0.0.1 to a neighbour, as a malicious
// root does it.
func loopbackBy(gateway, dev string) error {
	for _, key := range []string{"all/route_localnet", "lo/route_localnet", dev + "/route_localnet"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+key, []byte("1"), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("127.0.0.1/8")
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, addr); err != nil {
		return err
	}
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}}
	route.SetFlag(netlink.FLAG_ONLINK)
	return netlink.RouteAdd(route)
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	l := newLab(t)
	honest, liar := l.pod(), l.pod()
	box := l.inbox(l.node, ":83")
	// The node's own addresses are left out: a node drops its own as source from
	// outside before any rule (fib_validate_source).
	for _, from := range []string{honest.v4, "203.0.113.9", "169.254.1.1", honest.v6, "2001:db8:9::9"} {
		to, own, bits := node4, liar.v4, "/32"
		if strings.Contains(from, ":") {
			to, own, bits = node6, liar.v6, "/128"
		}
		l.in(liar.NetNS, func() error { return address("lo", from+bits) })
		l.send(liar.NetNS, from, net.JoinHostPort(to, "83"), "spoofed", 5)
		l.send(liar.NetNS, own, net.JoinHostPort(to, "83"), "last", 1)
		if got := box.untilLast(t); len(got) > 0 {
			t.Errorf("source %s went through: %q", from, got)
		}
	}
}

func TestTakenPortNamesItsOwner(t *testing.T) {
	l := newLab(t)
	first := l.pod("8080:80/tcp", node4+":8081:80/tcp")
	for _, port := range []string{"8080:90/tcp", node4 + ":8080:80/tcp", "8081:80/tcp", node4 + ":8081:80/tcp"} {
		second := l.prepare(port)
		_, err := l.net.Attach(context.Background(), second.Pod)
		if !errors.Is(err, network.ErrPortTaken) || !strings.Contains(err.Error(), "default/web-1 ("+first.ID[:12]+")") {
			t.Errorf("%s: %v", port, err)
		}
		if err := l.net.Detach(context.Background(), second.ID); err != nil {
			t.Error(err)
		}
	}
	l.pod("8080:80/udp", other4+":8081:80/tcp", "8080:80/sctp") // none of these meets
	if err := l.net.Detach(context.Background(), first.ID); err != nil {
		t.Fatal(err)
	}
	l.pod("8080:80/tcp")
}

// The leases know of the port first; where they do not, the kernel does.
func TestTakenPortInTheKernel(t *testing.T) {
	l := newLab(t)
	first := l.pod("8080:80/tcp")
	if err := l.net.leases.drop(first.ID); err != nil { // its lease was lost
		t.Fatal(err)
	}
	second := l.prepare("8080:80/tcp")
	_, err := l.net.Attach(context.Background(), second.Pod)
	if !errors.Is(err, network.ErrPortTaken) || !strings.Contains(err.Error(), "host port 8080: pod "+first.ID[:12]) {
		t.Error(err)
	}
	if err := l.net.Detach(context.Background(), second.ID); err != nil {
		t.Error(err)
	}
	l.serve(first.NetNS, "first", ":80")
	l.expectTCP(l.outside, node4, "8080", "first "+out4)
}

func (l *lab) expectTCP(ns int, host, port, want string) {
	l.t.Helper()
	if got, err := l.ask(ns, "tcp", host, port); err != nil || got != want {
		l.t.Errorf("tcp to %s port %s: answer %q, want %q, error %v", host, port, got, want, err)
	}
}

func TestUDPClientMovesWithThePort(t *testing.T) {
	l := newLab(t)
	first := l.pod("5353:53/udp")
	l.serve(first.NetNS, "first", ":53")
	clients := map[string]net.Conn{}
	for client, node := range map[string]string{out4: node4, out6: node6} {
		conn, err := l.dial(l.outside, "udp", "", net.JoinHostPort(node, "5353"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients[client] = conn
	}
	each := func(what string, check func(answer, client string, err error) bool) {
		t.Helper()
		for client, conn := range clients {
			if got, err := talk(conn); !check(got, client, err) {
				t.Errorf("%s: %s got %q, %v", what, client, got, err)
			}
		}
	}
	each("the first pod", func(answer, client string, err error) bool { return answer == "first "+client })
	if err := l.net.Detach(context.Background(), first.ID); err != nil {
		t.Fatal(err)
	}
	l.net.flows.wait()
	// The clients go on while nobody has the port: flows to the node itself.
	each("nobody", func(_, _ string, err error) bool { return errors.Is(err, unix.ECONNREFUSED) })
	second := l.pod("5353:53/udp")
	l.net.flows.wait()
	l.serve(second.NetNS, "second", ":53")
	each("the second pod", func(answer, client string, err error) bool { return answer == "second "+client })
}
