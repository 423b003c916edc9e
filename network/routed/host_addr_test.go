package routed

import (
	"net/netip"
	"os"
	"slices"
	"testing"
)

// An address of the node in the pods' range, of a bridge that another network left
// behind, is no pod's: the node would take all packets for it.
func TestAddressesOfTheNode(t *testing.T) {
	l := newLab(t)
	l.in(l.node, func() error { return address("lo", "10.88.0.1/16", "fd63:7269:626f:7800::2/64") })
	ahead := l.prepare()
	l.ahead(ahead)
	l.attach(ahead)
	for _, p := range []*testPod{ahead, l.pod()} {
		if slices.Contains(p.IPs, netip.MustParseAddr("10.88.0.1")) || slices.Contains(p.IPs, netip.MustParseAddr("fd63:7269:626f:7800::2")) {
			t.Errorf("a pod has an address of the node: %v", p.IPs)
		}
		l.serve(p.NetNS, "pod", ":80")
		l.expect(l.node, p.v4, "80", "pod 10.88.0.1")
		l.expect(l.node, p.v6, "80", "pod fd63:7269:626f:7800::2")
	}
}

// A pod that turned IPv6 off by a sysctl of its own starts, with IPv4.
func TestPodWithoutIPv6(t *testing.T) {
	l := newLab(t)
	for _, spare := range []bool{false, true} {
		p := l.prepare()
		l.in(p.NetNS, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) })
		if spare {
			l.ahead(p)
		}
		l.attach(p)
		l.serve(p.NetNS, "pod", ":80")
		l.expect(l.node, p.v4, "80", "pod "+node4)
	}
}
