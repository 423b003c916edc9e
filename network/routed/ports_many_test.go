package routed

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/nftables"
)

// More ports than one netlink attribute has room for, 64 KiB: of one pod, after
// somebody flushed them all, and back.
func TestManyPorts(t *testing.T) {
	l := newLab(t)
	before := l.tableText()
	var ports []string
	for i := range 3000 {
		ports = append(ports, fmt.Sprintf("%d:%d/tcp", 20000+i, 20000+i))
	}
	p := l.pod(ports...)
	l.serve(p.NetNS, "pod", ":22999")
	for _, fn := range []func(*nftables.Conn){func(*nftables.Conn) {}, func(c *nftables.Conn) { c.FlushRuleset() }, func(c *nftables.Conn) { c.FlushSet(l.net.rules.sets[1]) }} {
		l.in(l.node, func() error { return l.edit(fn) })
		if err := l.net.Ready(); err != nil {
			t.Fatal(err)
		}
		l.expectTCP(l.outside, node4, "22999", "pod "+out4)
	}
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	// And of one whose attaching ended before they were published: the kernel's answer
	// to each message that fails has the message in it.
	if _, err := l.net.leases.claim(p.Pod, p.Ports); err != nil {
		t.Fatal(err)
	}
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Error(err)
	}
	if after := l.tableText(); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}
