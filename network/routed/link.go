package routed

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// podLink is the interface's name in every pod; the kubelet's statistics want it.
const podLink = "eth0"

// The gateways answer to nobody: each pod has a permanent neighbour entry for them,
// so no packet ever waits for ARP or neighbour discovery.
var gateway4, gateway6 = netip.AddrFrom4([4]byte{169, 254, 1, 1}), netip.MustParseAddr("fe80::1")

// hostMAC is the address of every host end; each is alone with its pod.
var hostMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// multicast6 is all IPv6 multicast.
var multicast6 = netip.MustParsePrefix("ff00::/8")

// errRouted says that somebody else on this host has a route to a pod address, or
// the host the address itself.
var errRouted = errors.New("the address is routed elsewhere on this host")

// linkPrefix is how the names of an instance's host ends begin: 6 bytes.
func linkPrefix(instance string) string {
	sum := sha256.Sum256([]byte(instance))
	return "cb" + hex.EncodeToString(sum[:2])
}

// podMAC is a locally administered address made of the pod's id.
func podMAC(id string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(id))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// A wire is one pod's veth while it is being made: both ends with a socket each.
type wire struct {
	name      string // of the host's end
	mac       net.HardwareAddr
	mtu       int
	netns     int
	handle    *netlink.Handle // on the host, for what is rare
	host, pod *socket
	hostEnd   netlink.Link
	podEnd    netlink.Link
}

// make makes the veth straight into the pod's namespace, or finds the one that is
// there already, and brings it up.
func (w *wire) make() error {
	err := w.host.do(w.veth(), nil)
	if errors.Is(err, unix.EEXIST) {
		if ours, e := w.find(); e != nil {
			return e
		} else if ours {
			return w.up()
		}
		err = w.host.do(w.veth(), nil)
	}
	if err != nil {
		return err
	}
	return w.up()
}

// veth is the request. One queue each, else the kernel makes one per CPU, with
// its sysfs entries; traffic between veths uses the CPUs' backlogs anyway.
func (w *wire) veth() *batch {
	b := &batch{}
	common := func(name string, mac net.HardwareAddr) {
		b.text(unix.IFLA_IFNAME, name)
		b.attr(unix.IFLA_ADDRESS, mac)
		b.number(unix.IFLA_MTU, uint32(w.mtu))
		b.number(unix.IFLA_NUM_TX_QUEUES, 1)
		b.number(unix.IFLA_NUM_RX_QUEUES, 1)
	}
	b.add(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkHead(0, 0), "make interface %s", w.name)
	common(w.name, hostMAC)
	b.nest(unix.IFLA_LINKINFO, nil, func() {
		b.text(unix.IFLA_INFO_KIND, "veth")
		b.nest(unix.IFLA_INFO_DATA, nil, func() {
			b.nest(nl.VETH_INFO_PEER, linkHead(0, 0), func() {
				common(podLink, w.mac)
				b.number(unix.IFLA_NET_NS_FD, uint32(w.netns))
			})
		})
	})
	return b
}

// linkHead is struct ifinfomsg: of the link with that index, or, with 0, of the one
// that an attribute names. Flags are set, and no others touched.
func linkHead(index int, flags uint32) []byte {
	head := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	binary.NativeEndian.PutUint32(head[8:], flags)
	binary.NativeEndian.PutUint32(head[12:], flags) // ifi_change
	return head
}

// find says whether host end and pod end exist and belong together. A host end
// whose pod is gone, which the kernel is about to remove by itself, is removed.
func (w *wire) find() (bool, error) {
	host, err := w.handle.LinkByName(w.name)
	if notFound(err) {
		if _, e := w.pod.link(podLink); e == nil {
			return false, fmt.Errorf("cannot make interface %s: the pod's namespace has an %s that is not ours", w.name, podLink)
		}
		return false, nil // it ended meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("cannot find interface %s: %w", w.name, err)
	}
	pod, err := w.pod.link(podLink)
	if err == nil && pod.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == pod.Attrs().Index {
		return true, nil
	}
	if err := w.handle.LinkDel(host); err != nil && !gone(err) {
		return false, fmt.Errorf("cannot remove old interface %s: %w", w.name, err)
	}
	return false, nil
}

// link finds a link by a name.
func (s *socket) link(name string) (netlink.Link, error) { return s.linkAfter(&batch{}, name) }

// linkAfter sends a batch and asks for a link at its end.
func (s *socket) linkAfter(b *batch, name string) (netlink.Link, error) {
	b.add(unix.RTM_GETLINK, 0, linkHead(0, 0), "find interface %s", name)
	b.text(unix.IFLA_IFNAME, name)
	return s.oneLink(b)
}

// index is the number of a link, of which the kernel tells no more here: a message about
// a link waits for the lock of all links, and for a veth looks through the ids of all
// network namespaces (peernet2id). Any socket takes netdevice(7)'s questions.
func (s *socket) index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s.fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find interface %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

// oneLink sends a batch that asks for a link.
func (s *socket) oneLink(b *batch) (link netlink.Link, err error) {
	failed := s.do(b, func(kind uint16, data []byte) {
		if kind == unix.RTM_NEWLINK {
			link, err = netlink.LinkDeserialize(nil, data)
		}
	})
	if failed != nil || err != nil {
		return nil, errors.Join(failed, err)
	}
	if link == nil {
		return nil, errors.New("cannot find an interface: the kernel does not answer")
	}
	return link, nil
}

// up brings both ends up, the pod's second: an end that comes up with its peer
// already up can send at once; the other one has to wait for link watch, a kernel
// worker. Until that has run it drops everything, and a pod that connects at once
// loses the answer and a second with it. Since 6.8 asking for a link (rtnl_getlink)
// does that work first; older kernels have mostly done it while the routes were set.
func (w *wire) up() (err error) {
	b := &batch{}
	// No link-local address of its own: it would cost duplicate address detection
	// and multicast reports for each pod.
	b.add(unix.RTM_SETLINK, 0, linkHead(0, 0), "set up interface %s", w.name)
	b.allow(unix.EAFNOSUPPORT)
	b.text(unix.IFLA_IFNAME, w.name)
	b.nest(unix.IFLA_AF_SPEC, nil, func() {
		b.nest(unix.AF_INET6, nil, func() { b.attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{nl.IN6_ADDR_GEN_MODE_NONE}) })
	})
	b.add(unix.RTM_SETLINK, 0, linkHead(0, unix.IFF_UP), "bring interface %s up", w.name)
	b.text(unix.IFLA_IFNAME, w.name)
	if err := w.host.do(b, nil); err != nil {
		return err
	}
	b = &batch{}
	b.add(unix.RTM_SETLINK, 0, linkHead(0, unix.IFF_UP), "bring %s up", podLink)
	b.text(unix.IFLA_IFNAME, podLink)
	if w.podEnd, err = w.pod.linkAfter(b, podLink); err != nil {
		return err
	}
	w.hostEnd, err = w.host.link(w.name)
	return err
}

// settle takes away what the kernel does for an interface and nobody needs. Each
// IPv6 interface that can send gets a route for multicast. All have the one prefix:
// the kernel looks for its place in a list as long as there are pods, and walks over
// them whenever any interface goes up or down. There is no multicast between pod and
// host. Without IPv6, or before link watch has run, there is none.
func (w *wire) settle(b *batch) {
	b.route(unix.RTM_DELROUTE, 0, route{to: multicast6, table: unix.RT_TABLE_LOCAL, link: w.hostEnd.Attrs().Index})
	b.allow(unix.ESRCH, unix.ENOENT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENODEV)
}

// furnishHost gives the host a route and a neighbour for each address. The kernel
// is the judge of whether an address is free: another instance may use the same
// range, and a bridge of another network may have an address out of it.
func (w *wire) furnishHost(b *batch, ips []netip.Addr) error {
	for _, ip := range ips {
		w.addHost(b, ip)
	}
	err := w.lay(b)
	if errors.Is(err, errRouted) {
		return errors.Join(err, w.host.unroute(w.hostEnd.Attrs().Index, ips))
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	for _, ip := range ips { // which one, and whose is it?
		one := &batch{}
		w.addHost(one, ip)
		err := w.lay(one)
		if errors.Is(err, unix.EEXIST) {
			err = w.mine(ip)
		}
		if err != nil {
			return errors.Join(err, w.host.unroute(w.hostEnd.Attrs().Index, ips))
		}
	}
	return nil
}

func (w *wire) addHost(b *batch, ip netip.Addr) {
	index := w.hostEnd.Attrs().Index
	b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, podRoute(index, ip))
	b.neighbour(index, ip, w.mac)
	b.wayTo(ip, unix.RTM_F_FIB_MATCH)
	b.allow(unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL) // what a rule of the administrator may say
}

// lay sends what addHost added. An address of the host is in the table "local", which
// comes before all routes: a pod with it would get no packet.
func (w *wire) lay(b *batch) error {
	taken := false
	err := w.host.do(b, func(kind uint16, data []byte) {
		taken = taken || kind == unix.RTM_NEWROUTE && len(data) >= unix.SizeofRtMsg && data[7] != unix.RTN_UNICAST // rtm_type
	})
	if err == nil && taken {
		return fmt.Errorf("cannot use an address of the host for a pod: %w", errRouted)
	}
	return err
}

// mine says whether the route to an address that there is already is the pod's.
func (w *wire) mine(ip netip.Addr) error {
	if link, err := w.host.wayTo(ip); err == nil && link == w.hostEnd.Attrs().Index {
		return nil
	}
	return fmt.Errorf("cannot add route to %s: %w", ip, errRouted)
}

// unroute takes the routes of a pod's addresses back.
func (s *socket) unroute(link int, ips []netip.Addr) error {
	b := &batch{}
	for _, ip := range ips {
		b.route(unix.RTM_DELROUTE, 0, podRoute(link, ip))
		b.allow(unix.ESRCH, unix.ENODEV)
	}
	return s.do(b, nil)
}

// podRoute is the host's route to a pod's address.
func podRoute(link int, ip netip.Addr) route {
	r := route{to: netip.PrefixFrom(ip, ip.BitLen()), link: link, table: unix.RT_TABLE_MAIN, scope: unix.RT_SCOPE_LINK}
	if ip.Is6() {
		r.scope = unix.RT_SCOPE_UNIVERSE // IPv6 routes have no scope
	}
	return r
}

// lead gives eth0 the way out: a neighbour and a default route for each family.
func (w *wire) lead(b *batch, pools []pool) {
	index := w.podEnd.Attrs().Index
	for _, p := range pools {
		any, gateway := netip.PrefixFrom(netip.IPv6Unspecified(), 0), gateway6
		if p.prefix.Addr().Is4() {
			any, gateway = netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway4
		}
		b.neighbour(index, gateway, hostMAC)
		unlessTurnedOff(b, gateway, unix.EINVAL)
		b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
			route{to: any, by: gateway, link: index, table: unix.RT_TABLE_MAIN, flags: unix.RTNH_F_ONLINK})
		unlessTurnedOff(b, gateway, unix.EACCES)
	}
}

// address gives eth0 its addresses.
func (w *wire) address(b *batch, ips []netip.Addr) {
	index := w.podEnd.Attrs().Index
	for _, ip := range ips {
		b.address(index, ip)
		unlessTurnedOff(b, ip, unix.EACCES)
		if ip.Is6() {
			// The kernel adds a local route by itself, but for IPv6 later, in the worker
			// of duplicate address detection (addrconf_dad_work): until then the first
			// packets for the pod are lost, and with each a second.
			b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route{to: netip.PrefixFrom(ip, 128), link: index,
				table: unix.RT_TABLE_LOCAL, scope: unix.RT_SCOPE_HOST, kind: unix.RTN_LOCAL})
			unlessTurnedOff(b, ip, unix.EACCES)
		}
	}
}

// unlessTurnedOff: a pod may have asked for no IPv6 (net.ipv6.conf.all.disable_ipv6 =
// 1), and the kernel refuses with this error what it would not use.
func unlessTurnedOff(b *batch, ip netip.Addr, refusal unix.Errno) {
	if ip.Is6() {
		b.allow(refusal)
	}
}

func notFound(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError))
}

// gone says that an interface ended before or while it was spoken of.
func gone(err error) bool {
	return notFound(err) || errors.Is(err, unix.ENODEV)
}
