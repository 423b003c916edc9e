package routed

import (
	"context"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/cri-box/cri-box/network/networktest"
)

// ahead has a pod's link made before the pod is attached.
func (l *lab) ahead(p *testPod) *Link {
	l.t.Helper()
	link, err := l.net.Ahead(context.Background(), p.ID, p.NetNS)
	if err != nil {
		l.t.Fatal(err)
	}
	p.Link = link
	return link.(*Link)
}

// peers counts the namespaces that the node's links lead to.
func (l *lab) peers() (n int) {
	l.t.Helper()
	l.in(l.node, func() (err error) {
		n, err = networktest.Peers()
		return err
	})
	return n
}

// A link made ahead is the pod's from Attach on: found by the pod's id, counted once,
// and it carries packets at once. A pod that comes again finds it.
func TestLinkMadeAhead(t *testing.T) {
	l := newLab(t)
	p := l.prepare("8080:80/tcp")
	spare := l.ahead(p)
	before := l.peers()
	if spare.name != l.net.linkName(p.ID) || l.link(spare.name) == 0 {
		t.Fatalf("no interface %s", l.net.linkName(p.ID))
	}
	l.attach(p)
	if p.HostLink != spare.name || l.peers() != before {
		t.Errorf("attached by %s, made ahead was %s; namespaces %d, before %d", p.HostLink, spare.name, l.peers(), before)
	}
	l.serve(p.NetNS, "pod", ":80")
	l.serve(l.outside, "world", ":82")
	l.expectTCP(l.outside, node4, "8080", "pod "+out4)
	for host, want := range map[string]string{out4: "world " + node4, out6: "world " + node6} {
		l.expectTCP(p.NetNS, host, "82", want)
	}
	first := p.Result
	p.Link = nil
	l.attach(p)
	if p.HostLink != first.HostLink || p.MAC != first.MAC || p.v4 != first.IPs[0].String() {
		t.Errorf("again: %+v, before %+v", p.Result, first)
	}
	l.expectTCP(p.NetNS, out4, "82", "world "+node4)
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	if text := l.inventory(); strings.Contains(text, "route "+p.v4) || strings.Contains(text, "route "+p.v6) {
		t.Errorf("routes left:\n%s", text)
	}
}

// What was made ahead is not swept while it waits, nor when it has become a pod's;
// what nobody waits for is, such as that of a daemon before.
func TestSweepOfLinksMadeAhead(t *testing.T) {
	l := newLab(t)
	waiting, kept, lost, dropped := l.prepare(), l.prepare(), l.prepare(), l.prepare()
	for _, p := range []*testPod{waiting, kept, lost, dropped} {
		l.ahead(p)
	}
	l.attach(kept)
	l.attach(lost)
	if err := dropped.Link.Close(); err != nil {
		t.Fatal(err)
	}
	keep := func(id string) bool { return id == kept.ID[:8] }
	there := func(want ...bool) {
		t.Helper()
		for i, p := range []*testPod{waiting, kept, lost, dropped} {
			if name := p.Link.(*Link).name; (l.link(name) != 0) != want[i] {
				t.Errorf("interface %d, %s: there is %v, want %v", i, name, !want[i], want[i])
			}
		}
	}
	if err := l.net.Sweep(context.Background(), keep); err != nil {
		t.Fatal(err)
	}
	there(true, true, false, false)
	l.net.Close()
	l.open() // the next daemon
	if err := l.net.Sweep(context.Background(), keep); err != nil {
		t.Fatal(err)
	}
	there(false, true, false, false)
}

// A link that does not fit any more is replaced, and the pod comes up all the same.
func TestLinkMadeAheadDoesNotFit(t *testing.T) {
	for name, spoil := range map[string]func(l *lab, p *testPod){
		"removed": func(l *lab, p *testPod) {
			l.in(l.node, func() error { return netlink.LinkDel(p.Link.(*Link).hostEnd) })
		},
		"taken down": func(l *lab, p *testPod) {
			l.in(l.node, func() error { return netlink.LinkSetDown(p.Link.(*Link).hostEnd) })
		},
		"another MTU": func(l *lab, _ *testPod) {
			l.in(l.node, func() error {
				link, err := netlink.LinkByName("up0")
				if err != nil {
					return err
				}
				return netlink.LinkSetMTU(link, 1300)
			})
			if err := l.net.Ready(); err != nil {
				t.Error(err)
			}
		},
		"another network": func(l *lab, _ *testPod) {
			l.net.Close()
			l.open()
		},
		"another pod's": func(l *lab, p *testPod) { p.ID = strings.Repeat("e", 64) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.prepare("8080:80/tcp")
			l.ahead(p)
			spoil(l, p)
			l.attach(p)
			if want := l.net.mtu; p.MTU != want {
				t.Errorf("MTU %d, want %d", p.MTU, want)
			}
			l.serve(p.NetNS, "pod", ":80")
			l.expectTCP(l.outside, node4, "8080", "pod "+out4)
		})
	}
}

// A link that no pod got is gone when the network is closed, whoever has its namespace;
// a pod's stays.
func TestUnusedLinkEndsWithTheNetwork(t *testing.T) {
	l := newLab(t)
	p, q := l.prepare(), l.prepare()
	unused, used := l.ahead(p), l.ahead(q)
	l.attach(q)
	unused.Close()
	used.Close()
	if err := l.net.Close(); err != nil {
		t.Fatal(err)
	}
	if l.link(unused.name) != 0 || l.link(used.name) == 0 {
		t.Errorf("the unused link is there %v, the pod's %v", l.link(unused.name) != 0, l.link(used.name) != 0)
	}
}

// A link that no pod got ends with its namespace, and its socket does not keep that.
func TestUnusedLinkEnds(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	for range 4 {
		p := l.prepare()
		spare := l.ahead(p)
		spare.Close()
		l.forget(p.NetNS)
		l.waitGone([]string{spare.name})
	}
	if after := l.inventory(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}
