package routed

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
)

// crowd is many pods alive at once.
type crowd struct {
	ids, links []string
	sets       []*netns.Set
}

// add attaches one more pod, with a host port, and returns how long it waited for that
// and how long making its link ahead took, for which no pod waits.
func (c *crowd) add(l *lab) (up, ahead time.Duration) {
	l.t.Helper()
	set, err := netns.New(context.Background(), netns.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	i := len(c.ids)
	p := network.Pod{ID: fmt.Sprintf("%08x", i+1), Namespace: "default", Name: fmt.Sprintf("web-%d", i), NetNS: int(set.Net.Fd()),
		Ports: []network.PortMapping{{Protocol: network.TCP, ContainerPort: 80, HostPort: uint16(10000 + i)}}}
	began := time.Now()
	if p.Link, err = l.net.Ahead(context.Background(), p.ID, p.NetNS); err != nil {
		l.t.Fatal(err)
	}
	ahead = time.Since(began)
	began = time.Now()
	result, err := l.net.Attach(context.Background(), p)
	up = time.Since(began)
	if err != nil {
		l.t.Fatal(err)
	}
	c.ids, c.links, c.sets = append(c.ids, p.ID), append(c.links, result.HostLink), append(c.sets, set)
	return up, ahead
}

// drop detaches the youngest pod and returns how long it took.
func (c *crowd) drop(l *lab, pacer *netns.Pacer) time.Duration {
	l.t.Helper()
	last := len(c.ids) - 1
	began := time.Now()
	if err := l.net.Detach(context.Background(), c.ids[last]); err != nil {
		l.t.Fatal(err)
	}
	took := time.Since(began)
	set := c.sets[last]
	c.ids, c.sets = c.ids[:last], c.sets[:last]
	pacer.End(func() { set.Close() })
	return took
}

// A cost is what the last hundred pods took against the first: up and down is what a
// pod waits for, ahead what is done before.
type cost struct{ up, ahead, down float64 }

// compare makes and ends size pods on one node. The last hundred are measured in
// turn with the first hundred of another node: who else runs on the machine slows
// down both. What is returned are the ratios of the lower quartiles.
func compare(t testing.TB, size int, full func(l *lab, c *crowd), options ...func(*Config)) cost {
	t.Helper()
	l, fresh := newLab(t, options...), newLab(t, options...)
	before := l.inventory()
	c, few := &crowd{}, &crowd{}
	var pacer netns.Pacer
	var many, one [3][]time.Duration
	add := func(l *lab, c *crowd, to *[3][]time.Duration) {
		up, ahead := c.add(l)
		to[0], to[1] = append(to[0], up), append(to[1], ahead)
	}
	for len(c.ids) < size-100 {
		c.add(l)
	}
	inTurn(func() { add(l, c, &many) }, func() { add(fresh, few, &one) })
	full(l, c)
	inTurn(func() { many[2] = append(many[2], c.drop(l, &pacer)) }, func() { one[2] = append(one[2], few.drop(fresh, &pacer)) })
	for len(c.ids) > 0 {
		c.drop(l, &pacer)
	}
	pacer.Wait()
	for links := c.links; len(links) > 0; { // the kernel ends some 200 a second
		n := min(100, len(links))
		l.waitGone(links[:n])
		links = links[n:]
	}
	if after := l.inventory(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	var ratio [3]float64
	for i, what := range []string{"up", "ahead", "down"} {
		ratio[i] = quartile(many[i]) / quartile(one[i])
		t.Logf("%s: lower quartiles %.2f and %.2f ms, the last hundred against the first %.2f", what, quartile(one[i])/1e6, quartile(many[i])/1e6, ratio[i])
	}
	return cost{ratio[0], ratio[1], ratio[2]}
}

// inTurn calls both a hundred times. Which is first changes: what one leaves for the
// kernel to do is done while the other runs.
func inTurn(a, b func()) {
	for range 50 {
		a()
		b()
		b()
		a()
	}
}

func quartile(d []time.Duration) float64 { return float64(slices.Sorted(slices.Values(d))[len(d)/4]) }

func TestThousandPods(t *testing.T) {
	compare(t, 1000, func(l *lab, c *crowd) {
		t.Run("the last one answers", func(t *testing.T) { // its socket ends here, and does not hold the namespace
			l.t = t
			l.serve(int(c.sets[999].Net.Fd()), "last", ":80")
			l.expectTCP(l.outside, node4, "10999", "last "+out4)
			l.expectTCP(int(c.sets[0].Net.Fd()), node4, "10999", "last "+c.ip(l, 0))
		})
		l.t = t
	})
}

func (c *crowd) ip(l *lab, i int) string {
	one, _ := l.net.leases.get(c.ids[i])
	return one.IPs[0].String()
}

// BenchmarkTwoThousandPods reports what the last hundred of 2,000 pods cost against
// the first.
func BenchmarkTwoThousandPods(b *testing.B) {
	for name, options := range map[string][]func(*Config){"dual stack": nil, "IPv4 alone": {ipv4Alone}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c := compare(b, 2000, func(*lab, *crowd) {}, options...)
				b.ReportMetric(c.up, "up-last/first")
				b.ReportMetric(c.ahead, "ahead-last/first")
				b.ReportMetric(c.down, "down-last/first")
			}
		})
	}
}
