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

// BenchmarkPod attaches and detaches one pod after the other, each with a new
// namespace; the namespaces end after the measurement. Reported are medians.
func BenchmarkPod(b *testing.B) {
	for _, bench := range []struct {
		name  string
		ports []network.PortMapping
	}{
		{"plain", nil},
		{"tcp port", []network.PortMapping{{Protocol: network.TCP, ContainerPort: 80, HostPort: 8080}}},
		{"udp port", []network.PortMapping{{Protocol: network.UDP, ContainerPort: 80, HostPort: 8080}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l := newLab(b)
			var sets []*netns.Set
			defer func() {
				for _, set := range sets {
					set.Close()
				}
			}()
			var made, attached, detached []time.Duration
			for i := 0; b.Loop(); i++ {
				begin := time.Now()
				set, err := netns.New(context.Background(), netns.Options{IPC: true, UTS: true, Hostname: "web"})
				if err != nil {
					b.Fatal(err)
				}
				made = append(made, time.Since(begin))
				pod := network.Pod{ID: fmt.Sprintf("%08x", i), NetNS: int(set.Net.Fd()), Ports: bench.ports}
				begin = time.Now()
				if _, err := l.net.Attach(context.Background(), pod); err != nil {
					b.Fatal(err)
				}
				attached = append(attached, time.Since(begin))
				begin = time.Now()
				if err := l.net.Detach(context.Background(), pod.ID); err != nil {
					b.Fatal(err)
				}
				detached = append(detached, time.Since(begin))
				sets = append(sets, set)
			}
			b.ReportMetric(median(made), "new-p50-ms")
			b.ReportMetric(median(attached), "attach-p50-ms")
			b.ReportMetric(median(detached), "detach-p50-ms")
		})
	}
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
