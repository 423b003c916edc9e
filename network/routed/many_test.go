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

// add attaches one more pod, with a host port, and returns how long it took.
func (c *crowd) add(l *lab) time.Duration {
	l.t.Helper()
	set, err := netns.New(context.Background(), netns.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	i := len(c.ids)
	p := network.Pod{ID: fmt.Sprintf("%08x", i+1), Namespace: "default", Name: fmt.Sprintf("web-%d", i), NetNS: int(set.Net.Fd()),
		Ports: []network.PortMapping{{Protocol: network.TCP, ContainerPort: 80, HostPort: uint16(10000 + i)}}}
	began := time.Now()
	result, err := l.net.Attach(context.Background(), p)
	took := time.Since(began)
	if err != nil {
		l.t.Fatal(err)
	}
	c.ids, c.links, c.sets = append(c.ids, p.ID), append(c.links, result.HostLink), append(c.sets, set)
	return took
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

// compare makes and ends size pods on one node. The last hundred are measured in
// turn with the first hundred of another node: who else runs on the machine slows
// down both. What is returned is the ratio of the lower quartiles.
func compare(t testing.TB, size int, full func(l *lab, c *crowd), options ...func(*Config)) (up, down float64) {
	t.Helper()
	l, fresh := newLab(t, options...), newLab(t, options...)
	before := l.inventory()
	c, few := &crowd{}, &crowd{}
	var pacer netns.Pacer
	var many, one [2][]time.Duration
	for len(c.ids) < size-100 {
		c.add(l)
	}
	inTurn(func() { many[0] = append(many[0], c.add(l)) }, func() { one[0] = append(one[0], few.add(fresh)) })
	full(l, c)
	inTurn(func() { many[1] = append(many[1], c.drop(l, &pacer)) }, func() { one[1] = append(one[1], few.drop(fresh, &pacer)) })
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
	t.Logf("lower quartiles in ms: up %.2f and %.2f, down %.2f and %.2f", quartile(one[0])/1e6, quartile(many[0])/1e6, quartile(one[1])/1e6, quartile(many[1])/1e6)
	return quartile(many[0]) / quartile(one[0]), quartile(many[1]) / quartile(one[1])
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
	up, down := compare(t, 1000, func(l *lab, c *crowd) {
		t.Run("the last one answers", func(t *testing.T) { // its socket ends here, and does not hold the namespace
			l.t = t
			l.serve(int(c.sets[999].Net.Fd()), "last", ":80")
			l.expectTCP(l.outside, node4, "10999", "last "+out4)
			l.expectTCP(int(c.sets[0].Net.Fd()), node4, "10999", "last "+c.ip(l, 0))
		})
		l.t = t
	})
	t.Logf("cost of the last hundred of 1,000 pods against the first: up %.2f, down %.2f", up, down)
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
				up, down := compare(b, 2000, func(*lab, *crowd) {}, options...)
				b.ReportMetric(up, "up-last/first")
				b.ReportMetric(down, "down-last/first")
			}
		})
	}
}
