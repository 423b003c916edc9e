package routed

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/network/networktest"
)

// A lab is a node with an embedded network and a host outside, each in a network
// namespace of its own:
//
//	outside 192.0.2.1, 2001:db8::1 ── up0 ── 192.0.2.2, .3, 2001:db8::2 node ── pods
//
// Outside has no route to the pods: what it answers must come from the node.
type lab struct {
	t             testing.TB
	cfg           Config
	node, outside int
	net           *Network
	nextPod       int
	sets          map[int]*netns.Set // by descriptor
}

const (
	node4, other4, out4 = "192.0.2.2", "192.0.2.3", "192.0.2.1"
	node6, out6         = "2001:db8::2", "2001:db8::1"
	wait                = 30 * time.Second // for what has to come, also on an emulated machine
)

// The IPv6 neighbours are set because an interface that just came up finds none in
// its first second.
func newLab(t testing.TB, options ...func(*Config)) *lab {
	l := &lab{t: t, cfg: Config{Instance: "cri-box", StateDir: t.TempDir()}}
	for _, set := range options {
		set(&l.cfg)
	}
	l.node, l.outside = l.namespace(), l.namespace()
	l.in(l.node, func() error { return l.uplink() })
	l.in(l.node, func() error { return address("up0", node4+"/24", other4+"/24", node6+"/64") })
	l.in(l.outside, func() error { return address("up0", out4+"/24", out6+"/64") })
	l.in(l.node, func() error { return defaultRoutes(out4, out6) })
	l.in(l.node, func() error { return setNeighbour(out6, outsideMAC) })
	l.in(l.outside, func() error { return setNeighbour(node6, nodeMAC) })
	l.link("up0") // waits until it can send, see wire.settle
	l.open()
	return l
}

// ipv4Alone leaves IPv6 out.
func ipv4Alone(c *Config) { c.IPv4 = DefaultIPv4 }

func (l *lab) open() {
	l.t.Helper()
	l.in(l.node, func() (err error) {
		l.net, err = Open(l.cfg)
		return err
	})
	l.t.Cleanup(func() { l.net.Close() })
	if err := l.net.Ready(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) namespace() int {
	l.t.Helper()
	set, err := netns.New(context.Background(), netns.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	ns := int(set.Net.Fd())
	if l.sets == nil {
		l.sets = map[int]*netns.Set{}
	}
	l.sets[ns] = set
	l.t.Cleanup(func() { l.forget(ns) })
	return ns
}

// forget drops a namespace before the test ends.
func (l *lab) forget(ns int) {
	if set := l.sets[ns]; set != nil {
		set.Close()
		delete(l.sets, ns)
	}
}

func (l *lab) in(ns int, fn func() error) {
	l.t.Helper()
	if err := netns.Do(ns, fn); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) uplink() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = "up0", 1400, nodeMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerHardwareAddr = outsideMAC
	veth.PeerName, veth.PeerNamespace = "up0", netlink.NsFd(l.outside)
	return netlink.LinkAdd(veth)
}

var nodeMAC, outsideMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}, net.HardwareAddr{2, 0, 0, 0, 0, 1}

func setNeighbour(ip string, mac net.HardwareAddr) error {
	link, err := netlink.LinkByName("up0")
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac})
}

func address(name string, cidrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
		if ip, _ := netip.AddrFromSlice(addr.IP); ip.Unmap().Is6() {
			local := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(ip), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
			if err := netlink.RouteReplace(local); err != nil { // the kernel's own comes later
				return err
			}
		}
	}
	return nil
}

func defaultRoutes(gateways ...string) error {
	for _, gw := range gateways {
		ip := netip.MustParseAddr(gw)
		if err := netlink.RouteAdd(&netlink.Route{Gw: ip.AsSlice(), Dst: defaultNet(ip)}); err != nil {
			return err
		}
	}
	return nil
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

func defaultNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
}

// A testPod is a pod in a lab.
type testPod struct {
	network.Pod
	network.Result
	v4, v6 string
}

// pod attaches a new pod with these ports: "8080:80/tcp", "192.0.2.2:8080:80/udp".
func (l *lab) pod(ports ...string) *testPod {
	l.t.Helper()
	p := l.prepare(ports...)
	l.attach(p)
	return p
}

func (l *lab) prepare(ports ...string) *testPod {
	l.t.Helper()
	l.nextPod++
	p := &testPod{Pod: network.Pod{
		ID: fmt.Sprintf("%08x%s", l.nextPod, strings.Repeat("0", 56)), Namespace: "default",
		Name: fmt.Sprintf("web-%d", l.nextPod), NetNS: l.namespace(),
	}}
	for _, s := range ports {
		p.Ports = append(p.Ports, mapping(l.t, s))
	}
	return p
}

func (l *lab) attach(p *testPod) {
	l.t.Helper()
	result, err := l.net.Attach(context.Background(), p.Pod)
	if err != nil {
		l.t.Fatal(err)
	}
	p.Result, p.v4 = result, result.IPs[0].String()
	if len(result.IPs) > 1 {
		p.v6 = result.IPs[1].String()
	}
}

func mapping(t testing.TB, s string) network.PortMapping {
	t.Helper()
	rest, proto, _ := strings.Cut(s, "/")
	var m network.PortMapping
	if i := strings.LastIndex(rest, ":"); strings.Count(rest, ":") > 1 {
		j := strings.LastIndex(rest[:i], ":")
		m.HostIP, rest = netip.MustParseAddr(strings.Trim(rest[:j], "[]")), rest[j+1:]
	}
	if _, err := fmt.Sscanf(rest, "%d:%d", &m.HostPort, &m.ContainerPort); err != nil {
		t.Fatal(s, err)
	}
	m.Protocol = map[string]network.Protocol{"tcp": network.TCP, "udp": network.UDP, "sctp": network.SCTP}[proto]
	return m
}

func (l *lab) serve(ns int, name, addr string) {
	l.t.Helper()
	networktest.Serve(l.t, ns, name, addr)
}

// ask connects from ns and returns the answer.
func (l *lab) ask(ns int, proto, host, port string) (string, error) {
	conn, err := l.dial(ns, proto, "", net.JoinHostPort(host, port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return talk(conn)
}

func (l *lab) dial(ns int, proto, from, addr string) (conn net.Conn, err error) {
	dialer := &net.Dialer{Timeout: wait}
	if from != "" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	err = netns.Do(ns, func() (err error) {
		conn, err = dialer.Dial(proto, addr)
		return err
	})
	return conn, err
}

func talk(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	if _, ok := conn.(*net.UDPConn); ok {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// expect asks by TCP and UDP and compares the answers.
func (l *lab) expect(ns int, host, port, want string) {
	l.t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		got, err := l.ask(ns, proto, host, port)
		if err != nil || got != want {
			l.t.Errorf("%s to %s port %s: answer %q, want %q, error %v", proto, host, port, got, want, err)
		}
	}
}

// inbox collects datagrams, to see that one did not come.
type inbox struct{ net.PacketConn }

func (l *lab) inbox(ns int, addr string) inbox {
	l.t.Helper()
	var box inbox
	l.in(ns, func() (err error) {
		box.PacketConn, err = net.ListenPacket("udp", addr)
		return err
	})
	l.t.Cleanup(func() { box.Close() })
	return box
}

// untilLast reads up to the datagram "last" and returns what came before.
func (b inbox) untilLast(t testing.TB) []string {
	t.Helper()
	var before []string
	if err := b.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	for {
		n, from, err := b.ReadFrom(buf)
		if err != nil {
			t.Fatal("the last datagram did not come:", err)
		}
		if bytes.Equal(buf[:n], []byte("last")) {
			return before
		}
		before = append(before, fmt.Sprintf("%s from %s", buf[:n], from))
	}
}

// send sends datagrams from ns, with from as source address if it is not empty.
func (l *lab) send(ns int, from, addr, text string, times int) {
	l.t.Helper()
	conn, err := l.dial(ns, "udp", from, addr)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close()
	for range times {
		if _, err := conn.Write([]byte(text)); err != nil {
			l.t.Fatal(err)
		}
	}
}
