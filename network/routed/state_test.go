package routed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/network/networktest"
)

// generation is a number that the kernel raises with each nftables transaction.
func (l *lab) generation() (id uint32) {
	l.t.Helper()
	l.in(l.node, func() error {
		conn, err := mnl.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		reply, err := conn.Execute(mnl.Message{Header: mnl.Header{Flags: mnl.Request,
			Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN}, Data: make([]byte, 4)})
		if err != nil {
			return err
		}
		attrs, err := mnl.UnmarshalAttributes(reply[0].Data[4:])
		if err != nil {
			return err
		}
		for _, a := range attrs {
			if a.Type == unix.NFTA_GEN_ID {
				id = binary.BigEndian.Uint32(a.Data)
			}
		}
		return nil
	})
	return id
}

func TestAttachAndOpenTwiceAreNoOps(t *testing.T) {
	l := newLab(t)
	p := l.pod("8080:80/tcp")
	l.serve(p.NetNS, "pod", ":80")
	table, generation, before := l.tableText(), l.generation(), p.Result
	link := l.link(p.HostLink)
	l.attach(p)
	if l.net.Close() != nil {
		t.Error("cannot close")
	}
	l.open() // as a new process does
	l.attach(p)
	if !slices.Equal(p.IPs, before.IPs) || p.MAC != before.MAC || p.HostLink != before.HostLink || p.MTU != before.MTU {
		t.Errorf("got %+v, before %+v", p.Result, before)
	}
	if got := l.link(p.HostLink); got != link {
		t.Errorf("interface has index %d, had %d", got, link)
	}
	if got := l.tableText(); got != table {
		t.Errorf("table is now\n%s\nwas\n%s", got, table)
	}
	if got := l.generation(); got != generation {
		t.Errorf("%d nftables transactions, want none", got-generation)
	}
	l.expectTCP(l.outside, node4, "8080", "pod "+out4)
	if other := l.pod(); other.v4 == p.v4 || other.v6 == p.v6 {
		t.Errorf("two pods have %s and %s", p.v4, p.v6)
	}
}

// link returns an interface's index on the node, 0 if there is none.
func (l *lab) link(name string) (index int) {
	l.t.Helper()
	l.in(l.node, func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			index = link.Attrs().Index
		} else if !notFound(err) {
			return err
		}
		return nil
	})
	return index
}

func TestReadyMends(t *testing.T) {
	l := newLab(t)
	p := l.pod("8080:80/tcp")
	l.serve(p.NetNS, "pod", ":80")
	table := l.tableText()
	breakages := map[string]func() error{
		"flush ruleset": func() error { return l.edit(func(c *nftables.Conn) { c.FlushRuleset() }) },
		"rules flushed": func() error { return l.edit(func(c *nftables.Conn) { c.FlushTable(l.net.rules.table) }) },
		"ports flushed": func() error { return l.edit(func(c *nftables.Conn) { c.FlushSet(l.net.rules.sets[1]) }) },
		"foreign port": func() error {
			ghost := lease{Pod: strings.Repeat("f", 64), IPs: p.IPs, Ports: []network.PortMapping{mapping(t, "9999:99/tcp")}}
			return l.edit(func(c *nftables.Conn) {
				_ = c.SetAddElements(l.net.rules.sets[1], elementsOf(ghost)[setPort4])
			})
		},
		"forwarding off": func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) },
	}
	for name, fn := range breakages {
		l.in(l.node, fn)
		if err := l.net.Ready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.tableText(); got != table {
			t.Errorf("%s: not mended:\n%s", name, got)
		}
		l.expectTCP(l.outside, node4, "8080", "pod "+out4)
	}
	l.in(l.node, breakages["flush ruleset"])
	q := l.pod("8081:80/tcp") // without Ready in between
	l.serve(q.NetNS, "q", ":80")
	l.expectTCP(l.outside, node4, "8081", "q "+out4)
	l.expectTCP(l.outside, node4, "8080", "pod "+out4)
	generation := l.generation()
	if err := l.net.Ready(); err != nil || l.generation() != generation {
		t.Errorf("Ready changed what was right: %v", err)
	}
}

func (l *lab) edit(fn func(*nftables.Conn)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	fn(conn)
	return conn.Flush()
}

func TestManyPodsLeaveNothing(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	var ids []string
	var links []string
	for i := range 100 {
		set, err := netns.New(context.Background(), netns.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := network.Pod{ID: fmt.Sprintf("%08x", i+1), NetNS: int(set.Net.Fd()), Ports: []network.PortMapping{
			{Protocol: network.UDP, ContainerPort: 53, HostPort: uint16(1000 + i)}}}
		result, err := l.net.Attach(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		set.Close() // the only reference: the kernel takes the interfaces
		ids, links = append(ids, p.ID), append(links, result.HostLink)
	}
	if err := l.net.Detach(context.Background(), ids...); err != nil {
		t.Fatal(err)
	}
	l.waitGone(links)
	if err := l.net.Detach(context.Background(), ids...); err != nil {
		t.Error("a second Detach:", err)
	}
	if after := l.inventory(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if err := l.net.Close(); err != nil {
		t.Error(err)
	}
	l.in(l.node, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) > 0 {
			t.Errorf("table left: %v", tables[0].Name)
		}
		return err
	})
}

// waitGone returns when the node has none of these links.
func (l *lab) waitGone(names []string) {
	l.t.Helper()
	for _, name := range names {
		l.waitLink("interface "+name+" is still there", func() bool { return l.link(name) == 0 })
	}
}

// waitUp returns when the kernel has done all that it does for a link that came up.
func (l *lab) waitUp(name string) {
	l.t.Helper()
	l.waitLink("interface "+name+" is not up", func() (up bool) {
		l.in(l.node, func() error {
			link, err := netlink.LinkByName(name)
			up = err == nil && link.Attrs().OperState == netlink.OperUp
			return err
		})
		return up
	})
}

// waitLink asks again whenever a link of the node changes.
func (l *lab) waitLink(otherwise string, is func() bool) {
	l.t.Helper()
	updates, done := make(chan netlink.LinkUpdate, 1024), make(chan struct{})
	defer close(done)
	l.in(l.node, func() error { return netlink.LinkSubscribe(updates, done) })
	for deadline := time.After(wait); !is(); {
		select {
		case <-updates:
		case <-deadline:
			l.t.Fatal(otherwise)
		}
	}
}

// inventory is all that a pod could leave on the node, as text.
func (l *lab) inventory() string {
	l.t.Helper()
	var out strings.Builder
	l.in(l.node, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			fmt.Fprintln(&out, "link", link.Attrs().Name)
		}
		namespaces, err := networktest.Peers()
		if err != nil {
			return err
		}
		fmt.Fprintln(&out, "network namespaces that links lead to:", namespaces)
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if !r.Dst.IP.IsLinkLocalUnicast() { // the uplink's own come by themselves
					fmt.Fprintln(&out, "route", r.Dst, r.LinkIndex)
				}
			}
			neighbours, err := netlink.NeighList(0, family)
			if err != nil {
				return err
			}
			for _, n := range neighbours {
				if n.State&netlink.NUD_PERMANENT != 0 {
					fmt.Fprintln(&out, "neighbour", n.IP, n.LinkIndex)
				}
			}
		}
		return nil
	})
	out.WriteString(l.tableText())
	files, err := filepath.Glob(l.cfg.StateDir + "/*/*")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) != nextFile {
			fmt.Fprintln(&out, "file", file)
		}
	}
	return out.String()
}

// A pod id that comes again with a new namespace, while the kernel still has the
// old host end.
func TestSamePodInANewNamespace(t *testing.T) {
	l := newLab(t)
	p := l.pod("8080:80/tcp")
	first := p.IPs
	p.NetNS = l.namespace()
	l.attach(p)
	l.serve(p.NetNS, "again", ":80")
	l.expectTCP(l.outside, node4, "8080", "again "+out4)
	if !slices.Equal(first, p.IPs) {
		t.Errorf("addresses changed from %v to %v", first, p.IPs)
	}
}

// Detach cuts a pod off at once, whoever still holds its namespace.
func TestDetachedPodIsCutOff(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	box := l.inbox(l.node, ":83")
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	if conn, err := l.dial(p.NetNS, "udp", p.v4, node4+":83"); err == nil {
		_, _ = conn.Write([]byte("late"))
		conn.Close()
	}
	l.send(l.node, "", node4+":83", "last", 1)
	if got := box.untilLast(t); len(got) > 0 {
		t.Errorf("a detached pod sent %q", got)
	}
	if text := l.inventory(); strings.Contains(text, "route "+p.v4) || strings.Contains(text, "route "+p.v6) {
		t.Errorf("routes left:\n%s", text)
	}
}

func TestForeignInterfaceInTheNamespace(t *testing.T) {
	l := newLab(t)
	p := l.prepare()
	l.in(p.NetNS, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = podLink
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "other"
		return netlink.LinkAdd(veth)
	})
	if _, err := l.net.Attach(context.Background(), p.Pod); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Error(err)
	}
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	l := newLab(t)
	kept, lost := l.pod("8080:80/tcp"), l.pod("8081:80/tcp")
	nobody := l.pod()
	if err := l.net.leases.drop(nobody.ID); err != nil { // its lease was lost
		t.Fatal(err)
	}
	err := l.net.Sweep(context.Background(), func(id string) bool { return id == kept.ID[:8] })
	if err != nil {
		t.Fatal(err)
	}
	if l.link(kept.HostLink) == 0 || l.link(lost.HostLink) != 0 || l.link(nobody.HostLink) != 0 {
		t.Error("wrong interfaces swept")
	}
	if text := l.tableText(); !strings.Contains(text, "8080") || strings.Contains(text, "8081") {
		t.Errorf("wrong ports swept:\n%s", text)
	}
	if all := l.net.leases.all(); len(all) != 1 || all[0].Pod != kept.ID {
		t.Errorf("leases %v", all)
	}
}

func TestDetachWithoutALease(t *testing.T) {
	l := newLab(t)
	p := l.pod("8080:80/tcp")
	if err := l.net.leases.drop(p.ID); err != nil {
		t.Fatal(err)
	}
	if err := l.net.Detach(context.Background(), p.ID, "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	if text := l.tableText(); strings.Contains(text, "8080") {
		t.Errorf("port left:\n%s", text)
	}
	if err := l.net.Detach(context.Background(), "../../etc"); err == nil {
		t.Error("a path passed for an id")
	}
}

// Two instances with the same range on one node give out different addresses.
func TestTwoInstancesShareARange(t *testing.T) {
	l := newLab(t)
	a := l.pod()
	second := &lab{t: t, cfg: Config{Instance: "second", StateDir: t.TempDir()}, node: l.node, outside: l.outside}
	second.open()
	b := second.pod()
	if a.v4 == b.v4 || a.v6 == b.v6 {
		t.Errorf("both have %s, %s", a.v4, b.v4)
	}
	l.serve(b.NetNS, "b", ":80")
	l.expect(a.NetNS, b.v4, "80", "b "+a.v4)
	l.expect(a.NetNS, b.v6, "80", "b "+a.v6)
	if err := second.net.Detach(context.Background(), b.ID); err != nil {
		t.Error(err)
	}
	if err := second.net.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(l.tableText(), "guard") {
		t.Error("closing one instance took the other's table")
	}
}

func TestMTUIsTheUplinks(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	l.in(p.NetNS, func() error {
		link, err := netlink.LinkByName(podLink)
		if err == nil && (link.Attrs().MTU != 1400 || p.MTU != 1400) {
			t.Errorf("MTU is %d and is said to be %d, the uplink has 1400", link.Attrs().MTU, p.MTU)
		}
		return err
	})
	l.in(l.node, func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, 1300)
	})
	if err := l.net.Ready(); err != nil {
		t.Fatal(err)
	}
	l.attach(p)
	if q := l.pod(); q.MTU != 1300 || p.MTU != 1400 {
		t.Errorf("after a change new pods have %d, old ones are said to have %d", q.MTU, p.MTU)
	}
}

// The first packets to a new pod must not be lost: the kernel alone would add the
// route that delivers them later (see wire.address).
func TestNewPodReceivesAtOnce(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	l.in(p.NetNS, func() error {
		filter := &netlink.Route{Dst: hostNet(p.IPs[1]), Table: unix.RT_TABLE_LOCAL}
		routes, err := netlink.RouteListFiltered(unix.AF_INET6, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		ours := func(r netlink.Route) bool { return r.Priority == 1024 } // the kernel's has 0
		if err == nil && !slices.ContainsFunc(routes, ours) {
			t.Errorf("no local route of our own: %v", routes)
		}
		return err
	})
	l.in(l.node, func() error {
		link, err := netlink.LinkByName(p.HostLink)
		if err == nil && link.Attrs().OperState != netlink.OperUp {
			t.Errorf("the host's end is %s", link.Attrs().OperState)
		}
		return err
	})
}

// TestNoMulticastRoute: what each pod would have in one list with all others (see
// wire.settle) is not there, however late the kernel made it for a link made ahead.
func TestNoMulticastRoute(t *testing.T) {
	l := newLab(t)
	p := l.prepare()
	l.waitUp(l.ahead(p).name)
	l.attach(p)
	l.in(l.node, func() error {
		filter := &netlink.Route{LinkIndex: l.link(p.HostLink), Dst: &net.IPNet{IP: multicast6.Addr().AsSlice(), Mask: net.CIDRMask(8, 128)}, Table: unix.RT_TABLE_LOCAL}
		routes, err := netlink.RouteListFiltered(unix.AF_INET6, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		if len(routes) > 0 {
			t.Errorf("the host's end has %v", routes)
		}
		return err
	})
}

func TestManyAtOnce(t *testing.T) {
	l := newLab(t)
	pods := make([]*testPod, 40)
	for i := range pods {
		pods[i] = l.prepare(fmt.Sprintf("%d:80/tcp", 9000+i))
	}
	var group sync.WaitGroup
	for _, p := range pods {
		group.Go(func() {
			var err error
			if p.Result, err = l.net.Attach(context.Background(), p.Pod); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	seen := map[netip.Addr]bool{}
	for _, p := range pods {
		for _, ip := range p.IPs {
			if seen[ip] {
				t.Errorf("%s was given twice", ip)
			}
			seen[ip] = true
		}
	}
	l.serve(pods[39].NetNS, "last", ":80")
	l.expectTCP(l.outside, node4, "9039", "last "+out4)
}

func TestRouterAdvertisementsStayAccepted(t *testing.T) {
	l := &lab{t: t, cfg: Config{Instance: "cri-box", StateDir: t.TempDir()}}
	l.node, l.outside = l.namespace(), l.namespace()
	l.in(l.node, func() error { return l.uplink() })
	l.open()
	l.in(l.node, func() error {
		if ra, fwd := getSysctl("net/ipv6/conf/up0/accept_ra"), getSysctl("net/ipv6/conf/all/forwarding"); ra != "2" || fwd != "1" {
			t.Errorf("accept_ra %s, forwarding %s", ra, fwd)
		}
		return nil
	})
}

func TestOneFamily(t *testing.T) {
	for prefix, six := range map[string]bool{"10.9.0.0/24": false, "fd00:9::/64": true} {
		l := &lab{t: t, cfg: Config{Instance: "one", StateDir: t.TempDir()}}
		if p := netip.MustParsePrefix(prefix); six {
			l.cfg.IPv6 = p
		} else {
			l.cfg.IPv4 = p
		}
		l.node = l.namespace()
		l.open()
		p := l.prepare("8080:80/tcp")
		result, err := l.net.Attach(context.Background(), p.Pod)
		if err != nil || len(result.IPs) != 1 || result.IPs[0].Is6() != six || result.MTU != defaultMTU {
			t.Errorf("%+v, %v", result, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := netip.MustParsePrefix("10.88.0.0/16")
	for want, cfg := range map[string]Config{
		"instance name":        {Instance: "no/path"},
		"write 10.88.0.0/16":   {Instance: "x", IPv4: netip.MustParsePrefix("10.88.1.0/16")},
		"fewer than two":       {Instance: "x", IPv4: netip.MustParsePrefix("10.88.0.0/31")},
		"not of the family":    {Instance: "x", IPv6: good},
		"make lease directory": {Instance: "x", StateDir: "/proc/nowhere"},
	} {
		n, err := Open(cfg)
		if err == nil {
			n.Close()
			t.Errorf("%s: accepted", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestClosed(t *testing.T) {
	l := newLab(t)
	l.net.Close()
	if _, err := l.net.Attach(context.Background(), l.prepare().Pod); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if err := l.net.Ready(); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	l := newLab(t)
	hold, held := make(chan struct{}), make(chan struct{})
	go func() {
		_ = l.net.queue.do(context.Background(), func() error { close(held); <-hold; return nil })
	}()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.net.Attach(ctx, l.prepare().Pod); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hold)
}
