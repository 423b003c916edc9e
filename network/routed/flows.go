package routed

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// staleFlows matches the UDP flows that go to a published port and not to the pod
// that has it now. A client that never pauses would otherwise keep talking to the
// pod before: connection tracking looks maps up only for a flow's first packet.
type staleFlows struct {
	lease lease
	all   bool // also flows to the pod itself: it is leaving
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	end, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok {
		return false
	}
	mine := slices.Contains(s.lease.IPs, end.Unmap())
	if s.all && mine {
		return true
	}
	return !mine && slices.ContainsFunc(s.lease.Ports, func(p network.PortMapping) bool {
		return p.Protocol == network.UDP && p.HostPort == flow.Forward.DstPort
	})
}

// dropStaleFlows makes UDP clients of a lease's host ports start anew. It reads
// the whole connection table, so it runs outside the queue and only for UDP.
func (n *Network) dropStaleFlows(l lease, leaving bool) error {
	if !slices.ContainsFunc(l.Ports, func(p network.PortMapping) bool { return p.Protocol == network.UDP }) {
		return nil
	}
	for _, ip := range l.IPs {
		family := netlink.InetFamily(unix.AF_INET6)
		if ip.Is4() {
			family = unix.AF_INET
		}
		if _, err := n.flows.ConntrackDeleteFilters(netlink.ConntrackTable, family, staleFlows{l, leaving}); err != nil {
			return fmt.Errorf("cannot end old UDP flows of %s: %w", l, err)
		}
	}
	return nil
}
