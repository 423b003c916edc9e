// Package routed is the embedded pod network. It is routed, not bridged:
//
//	pod                                     host
//	eth0 10.88.0.5/32, fd63:…::5/128 ─veth─ cb1a2b3c4d5e6f   route 10.88.0.5 dev cb1a2b3c4d5e6f
//	default via 169.254.1.1, fe80::1        nftables table: source guard, masquerade, host ports
//
// There is no bridge, so there is no limit of 1,023 ports, no hairpin mode and
// nothing to spoof on layer 2. Everything is done by netlink in this process.
//
// On disk: <state>/ipam/<pod id>, one lease per pod, and <state>/ipam/next. In the
// kernel: per pod one veth, named after instance and pod id, with its routes; per
// instance one nftables table, named after the instance.
package routed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// The ranges that pods get without configuration. The IPv6 one is a unique local
// prefix (RFC 4193).
var (
	DefaultIPv4 = netip.MustParsePrefix("10.88.0.0/16")
	DefaultIPv6 = netip.MustParsePrefix("fd63:7269:626f:7800::/64")
)

// Config is what Open needs.
type Config struct {
	// Instance names the nftables table and, hashed, the interfaces. Letters,
	// digits, '-', '_' and '.', a letter first, at most 64.
	Instance string
	// StateDir is the instance's state directory. The leases are in ipam below it.
	StateDir string
	// IPv4 and IPv6 are the pod ranges. With both zero both defaults are used; with
	// one zero pods have the other family only.
	IPv4, IPv6 netip.Prefix
	// NoMasquerade are destinations that get packets with the pod's own address, as
	// the pods of this node do.
	NoMasquerade []netip.Prefix
	// MTU of the pods' interfaces in bytes; 0 takes the uplink's.
	MTU int
}

// Check says why these ranges cannot be used on this host; nil: they can.
func (c Config) Check() error {
	_, err := pools(c)
	return err
}

// Network is the embedded network of one instance. It implements network.Network.
type Network struct {
	instance string
	fixedMTU int // 0: the uplink's
	pools    []pool
	rules    ruleset
	leases   *leases
	queue    *queue
	closed   atomic.Bool

	flows *flows
	links links

	// Used only by the queue's thread.
	mtu  int             // of the next pod
	host *netlink.Handle // for what is rare
	rt   *socket
	kernelTable
}

var _ network.Network = (*Network)(nil)

// Open returns the network of an instance in the calling thread's network
// namespace. It fails for a bad configuration or state directory. What the kernel
// refuses (no nftables, say) makes Ready fail instead and is tried again there.
func Open(cfg Config) (*Network, error) {
	if err := checkInstance(cfg.Instance); err != nil {
		return nil, err
	}
	n := &Network{instance: cfg.Instance, fixedMTU: cfg.MTU}
	queue, err := newQueue()
	if err != nil {
		return nil, err
	}
	n.queue = queue
	if err := queue.do(context.Background(), func() error { return n.open(cfg) }); err != nil {
		n.release()
		return nil, err
	}
	_ = n.Ready() // makes the host ready; the reason why it is not is asked for later
	return n, nil
}

// open runs on the queue's thread: sockets belong to its namespace.
func (n *Network) open(cfg Config) (err error) {
	if n.pools, err = pools(cfg); err != nil {
		return err
	}
	n.rules = declare(cfg.Instance, n.pools, cfg.NoMasquerade)
	if n.leases, err = openLeases(filepath.Join(cfg.StateDir, "ipam"), n.pools); err != nil {
		return err
	}
	if n.host, err = newHandle(); err != nil {
		return err
	}
	if n.rt, err = openSocket(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if n.nf, err = openSocket(unix.NETLINK_NETFILTER); err != nil {
		return err
	}
	n.flows, err = newFlows()
	return err
}

// pools are the ranges in use. A host without IPv6 gets none.
func pools(cfg Config) ([]pool, error) {
	ranges := []netip.Prefix{cfg.IPv4, cfg.IPv6}
	if !cfg.IPv4.IsValid() && !cfg.IPv6.IsValid() {
		ranges = []netip.Prefix{DefaultIPv4, DefaultIPv6}
	}
	var out []pool
	for i, prefix := range ranges {
		if !prefix.IsValid() || (i == 1 && !hasIPv6()) {
			continue
		}
		if prefix.Addr().Is4() != (i == 0) || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("cannot use pod range %s: it is not of the family it is given for", prefix)
		}
		p, err := newPool(prefix)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("cannot use pod range %s: this host has no IPv6, give an IPv4 range", cfg.IPv6)
	}
	return out, nil
}

// Attach implements network.Network.
func (n *Network) Attach(ctx context.Context, pod network.Pod) (network.Result, error) {
	ahead, _ := pod.Link.(*Link)
	if ahead != nil {
		defer ahead.release(false)
	}
	if err := n.usable(pod.ID); err != nil {
		return network.Result{}, err
	}
	ports, err := checkPorts(pod.Ports)
	if err != nil {
		return network.Result{}, err
	}
	var held lease
	var w *wire
	err = n.queue.do(ctx, func() (err error) {
		w = n.wire(pod.ID, pod.NetNS)
		if err := n.ensure(); err != nil { // the table of all pods but this one
			return notReady(err)
		}
		if err := n.checkTaken(ports); err != nil { // before there is a lease: whoever writes the table writes all of them
			return err
		}
		if held, err = n.leases.claim(pod, ports); err != nil {
			return err
		}
		if err := n.connect(w, &held, ahead); err != nil {
			return err
		}
		return n.publish(w, held)
	})
	if err != nil {
		return network.Result{}, withOwner(err)
	}
	n.flows.arrived(held)
	return network.Result{IPs: held.IPs, Interface: podLink, HostLink: w.name, MAC: w.mac.String(), MTU: w.hostEnd.Attrs().MTU}, nil
}

// wire is a veth that is not made yet.
func (n *Network) wire(id string, netns int) *wire {
	return &wire{name: n.linkName(id), mac: podMAC(id), mtu: n.mtu, netns: netns, handle: n.host, host: n.rt}
}

// checkTaken refuses ports that somebody beside this instance's pods has.
func (n *Network) checkTaken(ports []network.PortMapping) error {
	if len(ports) == 0 {
		return nil
	}
	if err := checkHost(ports); err != nil {
		return err
	}
	return n.nft.do(func(conn *nftables.Conn) error { return n.rules.checkOthers(conn, ports) })
}

func (n *Network) usable(id string) error {
	if n.closed.Load() {
		return errClosed
	}
	return checkID(id)
}

// connect makes the pod's veth, addresses and routes; of one that was made ahead
// only what is the pod's own.
func (n *Network) connect(w *wire, held *lease, ahead *Link) error {
	taken, err := n.take(w, ahead)
	if err != nil {
		return err
	}
	if taken {
		if err := n.furnish(w, held, nil); !gone(err) && !errors.Is(err, unix.ENETDOWN) {
			return err
		}
		ahead.release(false) // somebody removed it or took it down
	}
	if w.pod, err = n.queue.inside(w.netns); err != nil {
		return err
	}
	defer w.pod.close()
	if err := w.make(); err != nil {
		return err
	}
	return n.furnish(w, held, n.pools)
}

// furnish adds what is a pod's own to its link; with pools gateways, too.
func (n *Network) furnish(w *wire, held *lease, pools []pool) error {
	if err := w.limit(held.Bandwidth); err != nil {
		return err
	}
	if err := n.route(w, held); err != nil {
		return err
	}
	b := &batch{}
	w.address(b, held.IPs)
	w.lead(b, pools)
	return w.pod.do(b, nil)
}

// route makes the host's side of the pod's addresses. When one turns out to be in
// use it takes the next: at most as many as there are.
func (n *Network) route(w *wire, held *lease) error {
	for range n.pools[0].size {
		b := &batch{}
		w.settle(b)
		err := w.furnishHost(b, held.IPs)
		if !errors.Is(err, errRouted) {
			return err
		}
		if *held, err = n.leases.move(held.Pod); err != nil {
			return err
		}
	}
	return network.ErrNoAddress
}

// publish puts the pod's host ports into the table.
func (n *Network) publish(w *wire, held lease) error {
	if len(held.Ports) == 0 {
		return nil
	}
	if n.pools[0].prefix.Addr().Is4() && slices.ContainsFunc(held.Ports, onLoopback) {
		// So that 127.0.0.1:port on the host leads into this interface; the guard
		// chain keeps the pod from going the other way.
		if err := setSysctl("net/ipv4/conf/"+w.name+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	err := n.change(func(conn *nftables.Conn) error { return n.rules.publish(conn, held) })
	if errors.Is(err, unix.ENOENT) { // somebody flushed all tables
		return n.ensure()
	}
	return err
}

// Detach implements network.Network. The routes go at once, the host's end with the
// pod's network namespace.
func (n *Network) Detach(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, n.detach(ctx, id))
	}
	return errors.Join(errs...)
}

func (n *Network) detach(ctx context.Context, id string) error {
	if err := n.usable(id); err != nil {
		return err
	}
	held, known := n.leases.get(id)
	held.Pod = id
	err := n.queue.do(ctx, func() error {
		var unpublish error
		if !known || len(held.Ports) > 0 {
			unpublish = n.change(func(conn *nftables.Conn) error { return n.rules.unpublish(conn, held) })
		}
		if !known && n.leases.alike(id) {
			return unpublish
		}
		var unlimit error
		if !known || held.Bandwidth.Egress > 0 {
			unlimit = n.remove(ifbName(n.linkName(id)))
		}
		return errors.Join(unpublish, n.cutOff(held), unlimit)
	})
	if err != nil {
		return err // the lease stays, so that nobody gets an address still in use
	}
	n.flows.left(held)
	return n.leases.drop(id)
}

// cutOff takes the pod's routes back. With them ends what the pod sends, too: its
// source is not behind its interface any more, see guard. The interface stays up: the
// kernel takes it down with the pod's namespace, and would here first look through
// all IPv6 routes of the host (rt6_disable_ip).
func (n *Network) cutOff(l lease) error {
	name := n.linkName(l.Pod)
	if len(l.IPs) == 0 { // the lease was lost: what is routed to the interface goes with it
		return n.down(name)
	}
	link, err := n.rt.index(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.rt.unroute(link, l.IPs)
}

func (n *Network) down(name string) error {
	return n.toLink("take down", name, n.host.LinkSetDown)
}

func (n *Network) remove(name string) error {
	return n.toLink("remove", name, n.host.LinkDel)
}

// toLink does something to an interface of the host; that there is none is no error.
func (n *Network) toLink(what, name string, do func(netlink.Link) error) error {
	link, err := n.host.LinkByName(name)
	if err == nil {
		err = do(link)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("cannot %s interface %s: %w", what, name, err)
	}
	return nil
}

// Sweep implements network.Network. An interface whose pod still has a process in
// its namespace goes too. Removing one takes some 40 ms; creations go in between.
func (n *Network) Sweep(ctx context.Context, keep func(podID8 string) bool) error {
	var errs []error
	for _, l := range n.leases.all() {
		if !keep(l.Pod[:8]) {
			errs = append(errs, n.detach(ctx, l.Pod))
		}
	}
	n.links.takeUnused() // they have no pod, and go with the others
	var links []netlink.Link
	errs = append(errs, n.queue.do(ctx, func() (err error) {
		links, err = n.host.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil // a link came or went meanwhile: what the list lacks the next Sweep finds
		}
		return err
	}))
	for _, link := range links {
		name := link.Attrs().Name
		rest, ours := strings.CutPrefix(name, linkPrefix(n.instance))
		if !ours || len(rest) != 8 && len(rest) != len(ifbName("12345678")) {
			continue
		}
		errs = append(errs, n.queue.do(ctx, func() error {
			// Asked here: one that is made ahead becomes a pod's in a job.
			if n.links.has(name) || keep(rest[:8]) {
				return nil
			}
			return n.remove(name)
		}))
	}
	return errors.Join(errs...)
}

// Close implements network.Network. Links that were made ahead and closed are removed;
// an instance without pods takes its table with it and leaves nothing behind.
func (n *Network) Close() error {
	if n.closed.Swap(true) {
		return nil
	}
	err := n.queue.do(context.Background(), func() error {
		var errs []error
		for _, name := range n.links.takeUnused() {
			errs = append(errs, n.remove(name))
		}
		if len(n.leases.all()) == 0 {
			errs = append(errs, n.nft.do(n.rules.remove))
		}
		return errors.Join(errs...)
	})
	n.release()
	return err
}

func (n *Network) release() {
	n.queue.stop()
	n.nft.close()
	if n.host != nil {
		n.host.Close()
	}
	for _, sock := range []*socket{n.rt, n.nf} {
		if sock != nil {
			sock.close()
		}
	}
	n.forwarding.close()
	if n.flows != nil {
		n.flows.close()
	}
	if n.leases != nil {
		n.leases.close()
	}
}

// Ranges are the pod ranges in use.
func (n *Network) Ranges() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range n.pools {
		out = append(out, p.prefix)
	}
	return out
}

// Pods is how many pods have an address.
func (n *Network) Pods() int { return len(n.leases.all()) }

func (n *Network) linkName(id string) string { return linkPrefix(n.instance) + id[:8] }

// checkID accepts what pod ids are made of. They name files and interfaces.
func checkID(id string) error {
	if len(id) < 8 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("cannot use pod id %q: it has to be 8 to 64 lower-case hex digits", id)
	}
	return nil
}

func checkInstance(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if name == "" || len(name) > 64 || !strings.Contains(letters, name[:1]) || strings.Trim(name, letters+"0123456789-_.") != "" {
		return fmt.Errorf("cannot use instance name %q: it has to be letters, digits, '-', '_' and '.', "+
			"beginning with a letter, at most 64", name)
	}
	return nil
}
