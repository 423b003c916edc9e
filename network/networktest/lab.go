// Package networktest proves what a pod network has to do, whoever makes it: by
// packets between pods, node and a host outside, each in a network namespace that
// the test made.
package networktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
)

// The addresses of the lab. Outside has no route to the pods: what it answers
// must come from the node.
const (
	Node4, Outside4 = "192.0.2.2", "192.0.2.1"
	Node6, Outside6 = "2001:db8::2", "2001:db8::1"
)

// wait is for what has to come: long, for an emulated machine (hack/vm).
const wait = 30 * time.Second

// A Lab is a node and a host outside:
//
//	outside 192.0.2.1, 2001:db8::1 ── up0 ── 192.0.2.2, 2001:db8::2 node ── pods
type Lab struct {
	T             testing.TB
	Node, Outside int // descriptors of network namespaces
	Net           network.Network
	nextPod       int
	reopen        func()
	sets          map[int]*netns.Set // by the descriptor of the network namespace
}

// New makes node and outside.
func New(t testing.TB) *Lab {
	l := &Lab{T: t, sets: map[int]*netns.Set{}}
	l.Node, l.Outside = l.Namespace(), l.Namespace()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "up0", netlink.NsFd(l.Outside)
	l.In(l.Node, func() error { return netlink.LinkAdd(veth) })
	l.In(l.Outside, func() error { return configure(Outside4+"/24", Outside6+"/64") })
	l.In(l.Node, func() error { return configure(Node4+"/24", Node6+"/64") })
	l.In(l.Node, func() error {
		for _, gw := range []string{Outside4, Outside6} {
			bits := netip.MustParseAddr(gw).BitLen()
			dst := &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw), Dst: dst}); err != nil {
				return err
			}
		}
		// What every node with a CNI network has.
		for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	return l
}

func configure(cidrs ...string) error {
	link, err := netlink.LinkByName("up0")
	if err != nil {
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
	}
	return netlink.LinkSetUp(link)
}

// Namespace makes a network namespace that ends with the test.
func (l *Lab) Namespace() int {
	l.T.Helper()
	set, err := netns.New(context.Background(), netns.Options{})
	if err != nil {
		l.T.Fatal(err)
	}
	ns := int(set.Net.Fd())
	l.sets[ns] = set
	l.T.Cleanup(func() {
		if l.sets[ns] == set {
			set.Close()
		}
	})
	return ns
}

// In runs fn in a network namespace and ends the test if it fails.
func (l *Lab) In(ns int, fn func() error) {
	l.T.Helper()
	if err := netns.Do(ns, fn); err != nil {
		l.T.Fatal(err)
	}
}

// A Pod is a pod in a lab.
type Pod struct {
	network.Pod
	network.Result
}

// Addr is the pod's address of a family; it ends the test if there is none.
func (l *Lab) Addr(p *Pod, v4 bool) string {
	l.T.Helper()
	for _, ip := range p.IPs {
		if ip.Is4() == v4 {
			return ip.String()
		}
	}
	l.T.Fatalf("pod has %v", p.IPs)
	return ""
}

// Prepare makes a pod's namespace and its request.
func (l *Lab) Prepare(ports ...network.PortMapping) *Pod {
	l.T.Helper()
	l.nextPod++
	ns := l.Namespace()
	return &Pod{Pod: network.Pod{ID: fmt.Sprintf("%08x%s", l.nextPod, strings.Repeat("0", 56)), Namespace: "default",
		Name: fmt.Sprintf("web-%d", l.nextPod), UID: "u", NetNS: ns, NetNSPath: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns), Ports: ports}}
}

// Attach attaches a pod.
func (l *Lab) Attach(p *Pod) error {
	return netns.Do(l.Node, func() (err error) {
		p.Result, err = l.Net.Attach(context.Background(), p.Pod)
		return err
	})
}

// Detach detaches a pod.
func (l *Lab) Detach(p *Pod) error {
	return netns.Do(l.Node, func() error { return l.Net.Detach(context.Background(), p.ID) })
}

// Pod attaches a new pod.
func (l *Lab) Pod(ports ...network.PortMapping) *Pod {
	l.T.Helper()
	p := l.Prepare(ports...)
	if err := l.Attach(p); err != nil {
		l.T.Fatal(err)
	}
	return p
}

// Serve answers on addr in ns, TCP and UDP, with name and the client's address, until
// the test ends: "web 192.0.2.1".
func Serve(t testing.TB, ns int, name, addr string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := netns.Do(ns, func() (err error) {
		if tcp, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	answer := func(from net.Addr) []byte {
		return []byte(name + " " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String())
	}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(answer(conn.RemoteAddr()))
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(answer(from), from)
		}
	}()
}

// Serve is the same for the laboratory's test.
func (l *Lab) Serve(ns int, name, addr string) {
	l.T.Helper()
	Serve(l.T, ns, name, addr)
}

// Ask connects from ns and returns the answer. Datagrams are sent again each
// second: a new IPv6 address may not answer its neighbours at once.
func (l *Lab) Ask(ns int, proto, host, port string, patience time.Duration) (string, error) {
	dialer := &net.Dialer{Timeout: patience}
	var conn net.Conn
	err := netns.Do(ns, func() (err error) {
		conn, err = dialer.Dial(proto, net.JoinHostPort(host, port))
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buf := make([]byte, 64)
	for end := time.Now().Add(patience); ; {
		if proto == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return "", err
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(min(time.Second, patience))); err != nil {
			return "", err
		}
		n, err := conn.Read(buf)
		if err == nil || time.Now().After(end) || !os.IsTimeout(err) {
			return string(buf[:n]), err
		}
	}
}

// Expect asks by TCP and UDP and compares the answers.
func (l *Lab) Expect(ns int, host, port string, want ...string) {
	l.T.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		got, err := l.Ask(ns, proto, host, port, wait)
		ok := false
		for _, w := range want {
			ok = ok || got == w
		}
		if err != nil || !ok {
			l.T.Errorf("%s to %s port %s: answer %q, want %q, error %v", proto, host, port, got, want, err)
		}
	}
}

// Refused expects the answer that nobody listens: a reset, an ICMP error.
func (l *Lab) Refused(ns int, host, port string) {
	l.T.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		if got, err := l.Ask(ns, proto, host, port, wait); !errors.Is(err, unix.ECONNREFUSED) {
			l.T.Errorf("%s to %s port %s: answer %q, %v, want connection refused", proto, host, port, got, err)
		}
	}
}

// Peers counts the network namespaces that interfaces of the calling thread's lead to,
// or led to and which still exist: the kernel gives each a number (RTM_GETNSID).
func Peers() (int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
	req.AddData(nl.NewRtGenMsg())
	numbers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
	return len(numbers), err
}

// End drops the pod's network namespace, as a runtime does once it is detached.
func (l *Lab) End(p *Pod) {
	l.T.Helper()
	if err := l.sets[p.NetNS].Close(); err != nil {
		l.T.Fatal(err)
	}
	delete(l.sets, p.NetNS)
}

// State is what the node's kernel has that pods could leave: links, routes,
// namespaces and the rules of the given text.
func (l *Lab) State(rules func() string) string {
	l.T.Helper()
	var b strings.Builder
	l.In(l.Node, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			fmt.Fprintln(&b, "link", link.Attrs().Name)
		}
		peers, err := Peers()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, "network namespaces that links lead to:", peers)
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if route.Dst != nil && route.Dst.IP.IsLinkLocalUnicast() {
				continue // the kernel adds these in its own time
			}
			fmt.Fprintln(&b, "route", route.Dst, route.Gw, route.LinkIndex)
		}
		b.WriteString(rules())
		return nil
	})
	return b.String()
}
