package networktest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network"
)

// Contract is what every network has to do. open is called in the node's namespace
// and has to give the same network again when it is called again after Close.
func Contract(t *testing.T, open func(t testing.TB) network.Network) {
	for name, test := range map[string]func(*Lab){
		"pods, node and outside": traffic, "host ports": hostPorts, "detached pods are cut off": cutOff,
		"attach and detach twice": twice, "the next daemon knows its pods": restart, "sweep": sweep, "SCTP": sctpTraffic,
	} {
		t.Run(name, func(t *testing.T) {
			l := New(t)
			l.Open(open)
			test(l)
		})
	}
}

// Open opens the network in the node's namespace.
func (l *Lab) Open(open func(t testing.TB) network.Network) {
	l.T.Helper()
	l.reopen = func() { l.Open(open) }
	l.In(l.Node, func() error {
		l.Net = open(l.T)
		return l.Net.Ready()
	})
	n := l.Net
	l.T.Cleanup(func() { n.Close() })
}

var families = []bool{true, false}

func pick(v4 bool, four, six string) string {
	if v4 {
		return four
	}
	return six
}

func traffic(l *Lab) {
	a, b := l.Pod(), l.Pod()
	l.Serve(b.NetNS, "b", ":80")
	l.Serve(l.Node, "node", Node4+":81") // not all: the answer to a datagram would have the bridge's address
	l.Serve(l.Node, "node", "["+Node6+"]:81")
	l.Serve(l.Outside, "world", ":82")
	for _, v4 := range families {
		l.Expect(a.NetNS, l.Addr(b, v4), "80", "b "+l.Addr(a, v4))
		l.Expect(b.NetNS, l.Addr(b, v4), "80", "b "+l.Addr(b, v4))
		l.Expect(a.NetNS, pick(v4, Node4, Node6), "81", "node "+l.Addr(a, v4))
		l.Expect(a.NetNS, pick(v4, Outside4, Outside6), "82", "world "+pick(v4, Node4, Node6))
		if got, err := l.Ask(l.Node, "tcp", l.Addr(b, v4), "80", wait); err != nil || len(got) < 3 {
			l.T.Errorf("node to pod: %q, %v", got, err)
		}
		l.Refused(a.NetNS, l.Addr(b, v4), "79") // closed
	}
}

func hostPorts(l *Lab) {
	p := l.Pod(network.PortMapping{Protocol: network.TCP, ContainerPort: 80, HostPort: 8080},
		network.PortMapping{Protocol: network.UDP, ContainerPort: 80, HostPort: 8080})
	other := l.Pod()
	l.Serve(p.NetNS, "pod", ":80")
	for _, v4 := range families {
		node := pick(v4, Node4, Node6)
		out := pick(v4, Outside4, Outside6)
		l.Expect(l.Outside, node, "8080", "pod "+out)
		for _, ns := range []int{l.Node, other.NetNS, p.NetNS} { // the source is the network's choice
			if got, err := l.Ask(ns, "tcp", node, "8080", wait); err != nil || got[:4] != "pod " {
				l.T.Errorf("port 8080 of %s: %q, %v", node, got, err)
			}
		}
		l.Refused(l.Outside, node, "8081")
	}
	if err := l.Detach(p); err != nil {
		l.T.Fatal(err)
	}
	l.Refused(l.Outside, Node4, "8080")
	l.Refused(l.Outside, Node6, "8080")
}

func cutOff(l *Lab) {
	a, b := l.Pod(), l.Pod()
	l.Serve(b.NetNS, "b", ":80")
	v4 := l.Addr(b, true)
	l.Expect(a.NetNS, v4, "80", "b "+l.Addr(a, true))
	if err := l.Detach(b); err != nil {
		l.T.Fatal(err)
	}
	if got, err := l.Ask(a.NetNS, "tcp", v4, "80", time.Second); err == nil {
		l.T.Errorf("a detached pod answered %q", got)
	}
	for range 4 {
		if c := l.Pod(); l.Addr(c, true) == v4 {
			l.T.Errorf("address %s was used again at once", v4)
		}
	}
}

func twice(l *Lab) {
	p := l.Pod()
	first := p.Result
	if err := l.Attach(p); err != nil || !reflect.DeepEqual(first, p.Result) {
		l.T.Errorf("again: %+v, %v; before %+v", p.Result, err, first)
	}
	for range 2 {
		if err := l.Detach(p); err != nil {
			l.T.Error(err)
		}
	}
	if err := l.Detach(l.Prepare()); err != nil {
		l.T.Error("a pod that never was attached:", err)
	}
}

func restart(l *Lab) {
	a, b := l.Pod(), l.Pod()
	l.Serve(b.NetNS, "b", ":80")
	if err := l.Net.Close(); err != nil {
		l.T.Fatal(err)
	}
	l.Expect(a.NetNS, l.Addr(b, true), "80", "b "+l.Addr(a, true)) // without a daemon
	l.reopen()
	before := b.Result
	if err := l.Attach(b); err != nil || !reflect.DeepEqual(before, b.Result) {
		l.T.Errorf("%+v, %v; before %+v", b.Result, err, before)
	}
	l.Expect(a.NetNS, l.Addr(b, true), "80", "b "+l.Addr(a, true))
	for _, p := range []*Pod{a, b} {
		if err := l.Detach(p); err != nil {
			l.T.Error(err)
		}
	}
}

func sweep(l *Lab) {
	kept, lost := l.Pod(), l.Pod()
	l.Serve(kept.NetNS, "kept", ":80")
	l.Serve(lost.NetNS, "lost", ":80")
	err := l.Net.Sweep(context.Background(), func(id string) bool { return id == kept.ID[:8] })
	if err != nil {
		l.T.Fatal(err)
	}
	if got, err := l.Ask(l.Node, "tcp", l.Addr(kept, true), "80", wait); err != nil {
		l.T.Errorf("a pod that was kept: %q, %v", got, err)
	}
	l.T.Logf("swept %s", lost.ID[:8])
}
