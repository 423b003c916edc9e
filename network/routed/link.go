package routed

import (
	"crypto/sha256"
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

// gateways answer to nobody: each pod has a permanent neighbour entry for them,
// so no packet ever waits for ARP or neighbour discovery.
var gateways = map[bool]net.IP{true: net.IPv4(169, 254, 1, 1).To4(), false: net.ParseIP("fe80::1")}

// hostMAC is the address of every host end; each is alone with its pod.
var hostMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// multicast6 is all IPv6 multicast.
var multicast6 = &net.IPNet{IP: net.IP{0xff, 15: 0}, Mask: net.CIDRMask(8, 128)}

// errRouted says that somebody else on this host has a route to a pod address.
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

// A wire is one pod's veth while it is being made: both ends with a handle each.
type wire struct {
	name      string // of the host end
	mac       net.HardwareAddr
	mtu       int
	netns     int
	host, pod *netlink.Handle
	hostEnd   netlink.Link
	podEnd    netlink.Link
}

// make makes the veth straight into the pod's namespace or finds the one that is
// there already.
func (w *wire) make() error {
	veth := w.veth()
	err := w.host.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		if ours, e := w.find(); ours || e != nil {
			return e
		}
		err = w.host.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("cannot make interface %s: %w", w.name, err)
	}
	w.hostEnd = veth // LinkAdd has filled in the index
	if w.podEnd, err = w.pod.LinkByName(podLink); err != nil {
		return fmt.Errorf("cannot find %s in the pod: %w", podLink, err)
	}
	return nil
}

// veth is the request. One queue each, else the kernel makes one per CPU, with
// its sysfs entries; traffic between veths uses the CPUs' backlogs anyway.
func (w *wire) veth() *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = w.name, w.mtu, hostMAC
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = podLink, w.mac, netlink.NsFd(w.netns)
	return veth
}

// find says whether host end and pod end exist and belong together. A host end
// whose pod is gone, which the kernel is about to remove by itself, is removed.
func (w *wire) find() (bool, error) {
	host, err := w.host.LinkByName(w.name)
	if notFound(err) {
		if _, e := w.pod.LinkByName(podLink); e == nil {
			return false, fmt.Errorf("cannot make interface %s: the pod's namespace has an %s that is not ours", w.name, podLink)
		}
		return false, nil // it ended meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("cannot find interface %s: %w", w.name, err)
	}
	pod, err := w.pod.LinkByName(podLink)
	if err == nil && pod.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == pod.Attrs().Index {
		w.hostEnd, w.podEnd = host, pod
		return true, nil
	}
	if err := w.host.LinkDel(host); err != nil && !gone(err) {
		return false, fmt.Errorf("cannot remove old interface %s: %w", w.name, err)
	}
	return false, nil
}

// up brings both ends up, the pod's second: an end that comes up with its peer
// already up can send at once; the other one has to wait for link watch, a kernel
// worker. See settle.
func (w *wire) up() error {
	// No link-local address of its own: it would cost duplicate address detection
	// and multicast reports for each pod.
	if err := w.host.LinkSetIP6AddrGenMode(w.hostEnd, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("cannot set up interface %s: %w", w.name, err)
	}
	if err := w.host.LinkSetUp(w.hostEnd); err != nil {
		return fmt.Errorf("cannot bring interface %s up: %w", w.name, err)
	}
	if err := w.pod.LinkSetUp(w.podEnd); err != nil {
		return fmt.Errorf("cannot bring %s up: %w", podLink, err)
	}
	return nil
}

// settle makes sure that the host's end can send. Until link watch has run it
// drops everything, and a pod that connects at once loses the answer and a second
// with it. Since 6.8 asking for a link (rtnl_getlink) does that work first; older
// kernels have mostly done it while the routes were set.
func (w *wire) settle() error {
	if _, err := w.host.LinkByIndex(w.hostEnd.Attrs().Index); err != nil {
		return fmt.Errorf("cannot find interface %s: %w", w.name, err)
	}
	// Each IPv6 interface that can send gets a route for multicast. All have the one
	// prefix: the kernel looks for its place in a list as long as there are pods, and
	// walks over them whenever any interface goes up or down. Nobody needs it, there
	// is no multicast between pod and host. Without IPv6, or before link watch has
	// run, there is none.
	_ = w.host.RouteDel(&netlink.Route{LinkIndex: w.hostEnd.Attrs().Index, Dst: multicast6, Table: unix.RT_TABLE_LOCAL})
	return nil
}

// furnishHost gives the host a route and a neighbour for each address.
func (w *wire) furnishHost(ips []netip.Addr) error {
	for _, ip := range ips {
		if err := w.route(ip); err != nil {
			return err
		}
		if err := w.host.NeighSet(neighbour(w.hostEnd, ip.AsSlice(), w.mac)); err != nil {
			return fmt.Errorf("cannot set neighbour %s on %s: %w", ip, w.name, err)
		}
	}
	return nil
}

// route adds the host's route to the pod. The kernel is the judge of whether the
// address is free: another instance may use the same range.
func (w *wire) route(ip netip.Addr) error {
	want := podRoute(w.hostEnd, ip)
	err := w.host.RouteAdd(want)
	if !errors.Is(err, unix.EEXIST) {
		if err != nil {
			return fmt.Errorf("cannot add route to %s: %w", ip, err)
		}
		return nil
	}
	have, err := w.host.RouteGet(ip.AsSlice())
	if err == nil && len(have) == 1 && have[0].LinkIndex == want.LinkIndex {
		return nil
	}
	return fmt.Errorf("cannot add route to %s: %w", ip, errRouted)
}

// podRoute is the host's route to a pod's address.
func podRoute(hostEnd netlink.Link, ip netip.Addr) *netlink.Route {
	route := &netlink.Route{LinkIndex: hostEnd.Attrs().Index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
	if ip.Is6() {
		route.Scope = netlink.SCOPE_UNIVERSE // IPv6 routes have no scope
	}
	return route
}

// furnishPod gives eth0 its addresses, neighbours and default routes.
func (w *wire) furnishPod(ips []netip.Addr) error {
	for _, ip := range ips {
		// nodad: nobody else is on the wire, and DAD takes a second.
		addr := &netlink.Addr{IPNet: hostNet(ip), Flags: unix.IFA_F_NODAD}
		if err := w.pod.AddrReplace(w.podEnd, addr); err != nil {
			return fmt.Errorf("cannot give %s the address %s: %w", podLink, ip, err)
		}
		if ip.Is6() {
			if err := w.pod.RouteReplace(localRoute(w.podEnd, ip)); err != nil {
				return fmt.Errorf("cannot add local route of %s: %w", ip, err)
			}
		}
		gateway := gateways[ip.Is4()]
		if err := w.pod.NeighSet(neighbour(w.podEnd, gateway, hostMAC)); err != nil {
			return fmt.Errorf("cannot set neighbour %s on %s: %w", gateway, podLink, err)
		}
		route := &netlink.Route{LinkIndex: w.podEnd.Attrs().Index, Gw: gateway, Dst: defaultNet(ip)}
		route.SetFlag(netlink.FLAG_ONLINK)
		if err := w.pod.RouteReplace(route); err != nil {
			return fmt.Errorf("cannot add default route by %s: %w", gateway, err)
		}
	}
	return nil
}

func neighbour(link netlink.Link, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}
}

// localRoute delivers what is for ip. The kernel adds one by itself, but for IPv6
// later, in the worker of duplicate address detection (addrconf_dad_work): until
// then the first packets for the pod are lost, and with each a second.
func localRoute(link netlink.Link, ip netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(ip), Type: unix.RTN_LOCAL,
		Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

func defaultNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
}

func notFound(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError))
}

// gone says that an interface ended before or while it was spoken of.
func gone(err error) bool {
	return notFound(err) || errors.Is(err, unix.ENODEV)
}
