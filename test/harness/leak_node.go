package harness

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A nodeState is the node's network as text, one line for each link, address,
// route, rule and nftables object.
type nodeState struct {
	lines []string
}

// readNode lists what is in a network namespace. The kernel says of a list that
// something came or went while it was read: then it is read again.
func readNode(n *Net) (s *nodeState, err error) {
	within(waitTimeout, func() bool {
		s, err = readNodeOnce(n)
		return !errors.Is(err, netlink.ErrDumpInterrupted)
	})
	return s, err
}

func readNodeOnce(n *Net) (*nodeState, error) {
	h, err := n.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	s := &nodeState{}
	for _, read := range []func(*netlink.Handle) error{s.readLinks, s.readRoutes, s.readRules} {
		if err := read(h); err != nil {
			return nil, fmt.Errorf("cannot read the %s network: %w", n.Name, err)
		}
	}
	if err := s.readTables(n); err != nil {
		return nil, fmt.Errorf("cannot read the %s network's nftables: %w", n.Name, err)
	}
	return s, nil
}

func (s *nodeState) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *nodeState) readLinks(h *netlink.Handle) error {
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		s.add("link %s", l.Attrs().Name)
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if l.Attrs().Name == uplink && byItself(a.IPNet) {
				continue
			}
			s.add("address %s on %s", a.IPNet, l.Attrs().Name)
		}
	}
	return nil
}

func (s *nodeState) readRoutes(h *netlink.Handle) error {
	up, err := h.LinkByName(uplink)
	if err != nil {
		return err
	}
	uplinkIndex := up.Attrs().Index
	// With a filter on the table, or the kernel's main table alone is listed.
	filter := &netlink.Route{Table: 0}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			// A node that forwards has an anycast address (RFC 4291, 2.6.1).
			if r.LinkIndex == uplinkIndex && byItself(r.Dst) || r.Type == unix.RTN_ANYCAST {
				continue
			}
			s.add("route %v via %v table %d type %d", r.Dst, r.Gw, r.Table, r.Type)
		}
	}
	return nil
}

// byItself says whether the kernel adds such an address, or the route to it, to
// a link of its own accord, some time after the link came up.
func byItself(n *net.IPNet) bool {
	return n != nil && (n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast())
}

func (s *nodeState) readRules(h *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			s.add("rule %v", r)
		}
	}
	return nil
}

func (s *nodeState) readTables(n *Net) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.fd.Fd())))
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		s.add("nft table %s", t.Name)
		sets, err := c.GetSets(t)
		if err != nil {
			return err
		}
		for _, set := range sets {
			if err := s.readElements(c, t, set); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *nodeState) readElements(c *nftables.Conn, t *nftables.Table, set *nftables.Set) error {
	if set.Anonymous {
		return nil // part of a rule
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if !e.IntervalEnd {
			s.add("nft element %x in %s %s %s", e.Key, t.Name, set.Name, e.Comment)
		}
	}
	return nil
}

// leftInNode compares the node's network with what it was before the first start.
func (i *Instance) leftInNode() []Leftover {
	now, err := readNode(i.Node)
	if err != nil {
		i.T.Errorf("cannot look for leftovers: %v", err)
		return nil
	}
	var found []Leftover
	for _, line := range now.lines {
		if !slices.Contains(i.start.lines, line) {
			found = append(found, Leftover{Kind: "network", Name: line})
		}
	}
	return found
}
