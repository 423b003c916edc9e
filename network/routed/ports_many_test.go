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
	for i := range 1500 {
		ports = append(ports, fmt.Sprintf("%d:%d/tcp", 20000+i, 20000+i))
	}
	p := l.pod(ports...)
	l.serve(p.NetNS, "pod", ":21499")
	for _, fn := range []func(*nftables.Conn){func(*nftables.Conn) {}, func(c *nftables.Conn) { c.FlushRuleset() }, func(c *nftables.Conn) { c.FlushSet(l.net.rules.sets[1]) }} {
		l.in(l.node, func() error { return l.edit(fn) })
		if err := l.net.Ready(); err != nil {
			t.Fatal(err)
		}
		l.expectTCP(l.outside, node4, "21499", "pod "+out4)
	}
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	if after := l.tableText(); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}
