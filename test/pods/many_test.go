package pods_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

// BenchmarkPodBesideTwoThousand reports what RunPodSandbox, and StopPodSandbox with
// RemovePodSandbox, take on a node with 2,000 pods against one with none: ratios of
// medians, twenty-five pods here and there in turn, one up and down after the other.
func BenchmarkPodBesideTwoThousand(b *testing.B) {
	for name, options := range map[string][]harness.Option{"dual stack": nil, "IPv4 alone": {harness.Args("--set", "network.ipv6=")}} {
		b.Run(name, func(b *testing.B) {
			few, many := harness.New(b, options...), harness.New(b, options...)
			for range 2000 {
				many.RunPod()
			}
			for b.Loop() {
				var one, other turn
				for range 8 {
					one.pods(few)
					other.pods(many)
					other.pods(many)
					one.pods(few)
				}
				b.ReportMetric(median(one.up), "up-ms")
				b.ReportMetric(median(other.up)/median(one.up), "up-2000/0")
				b.ReportMetric(median(one.down), "down-ms")
				b.ReportMetric(median(other.down)/median(one.down), "down-2000/0")
			}
		})
	}
}

// A turn is how long pods took, in milliseconds.
type turn struct{ up, down []float64 }

func (t *turn) pods(i *harness.Instance) {
	for range 25 {
		began := time.Now()
		pod := i.RunPod()
		t.up = append(t.up, milliseconds(began))
		began = time.Now()
		pod.Stop()
		pod.Remove()
		t.down = append(t.down, milliseconds(began))
	}
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since)) / 1e6 }

func median(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }
