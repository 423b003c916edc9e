package routed

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cri-box/cri-box/network"
)

// transfer sends size bytes from one namespace to an address in another and
// returns how long they took.
func (l *lab) transfer(from, to int, addr string, size int) time.Duration {
	l.t.Helper()
	var listener net.Listener
	l.in(to, func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	})
	defer listener.Close()
	done := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- -1
			return
		}
		n, _ := io.Copy(io.Discard, conn)
		conn.Close()
		done <- n
	}()
	conn, err := l.dial(from, "tcp", "", addr)
	if err != nil {
		l.t.Fatal(err)
	}
	began := time.Now()
	_ = conn.SetDeadline(began.Add(30 * time.Second))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		l.t.Fatal(err)
	}
	conn.Close()
	if n := <-done; n != int64(size) {
		l.t.Fatalf("%d bytes came, want %d", n, size)
	}
	return time.Since(began)
}

func TestBandwidth(t *testing.T) {
	l := newLab(t)
	const size = 2 << 20 // two seconds at 1 MiB per second, but for the burst
	const least = 1200 * time.Millisecond
	const most = 10 * time.Second // on a busy machine; it would take longer at an eighth of the limit, bits for bytes
	slow, free := l.prepare(), l.pod()
	slow.Bandwidth = network.Bandwidth{Ingress: 8 << 20, Egress: 8 << 20}
	l.attach(slow)
	l.attach(slow) // twice is a no-op
	limited := func(name string, from, to int, addr string) {
		t.Helper()
		if took := l.transfer(from, to, addr, size); took < least || took > most {
			t.Errorf("%s: 2 MiB took %s, want %s to %s", name, took, least, most)
		}
	}
	limited("in", l.node, slow.NetNS, slow.v4+":90")
	limited("out", slow.NetNS, l.node, node4+":90")
	limited("out by IPv6", slow.NetNS, l.outside, "["+out6+"]:90")
	if took := l.transfer(free.NetNS, l.node, node4+":90", 8*size); took > most { // 16 seconds with the limit
		t.Errorf("another pod: 16 MiB took %s", took)
	}
	l.serve(l.node, "node", ":81")
	l.expect(slow.NetNS, node4, "81", "node "+slow.v4) // the source check still lets it through
	if err := l.net.Detach(context.Background(), slow.ID); err != nil {
		t.Fatal(err)
	}
	if l.link(ifbName(slow.HostLink)) != 0 {
		t.Error("the ifb is left")
	}
}

func TestLimitedPodCannotLie(t *testing.T) {
	l := newLab(t)
	liar := l.prepare()
	liar.Bandwidth.Egress = 8 << 20
	l.attach(liar)
	box := l.inbox(l.node, ":83")
	l.in(liar.NetNS, func() error { return address("lo", "203.0.113.9/32") })
	l.send(liar.NetNS, "203.0.113.9", node4+":83", "spoofed", 5)
	l.send(liar.NetNS, liar.v4, node4+":83", "last", 1)
	if got := box.untilLast(t); len(got) > 0 {
		t.Errorf("went through: %q", got)
	}
}

func TestSweepTakesLimitsToo(t *testing.T) {
	l := newLab(t)
	p := l.prepare()
	p.Bandwidth.Egress = 8 << 20
	l.attach(p)
	if err := l.net.leases.drop(p.ID); err != nil { // lost
		t.Fatal(err)
	}
	if err := l.net.Sweep(context.Background(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	var left []string
	l.in(l.node, func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, linkPrefix("cri-box")) {
				left = append(left, link.Attrs().Name)
			}
		}
		return err
	})
	if len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
