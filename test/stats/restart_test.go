package stats_test

import (
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestStatsAfterRestart: a new daemon goes on measuring what an earlier one made.
func TestStatsAfterRestart(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), run("spin"))
	c.WaitOutput("ready")
	before, net := stats(t, c).Cpu.UsageCoreNanoSeconds.GetValue(), podStats(t, pod).Network.DefaultInterface
	i.Kill()
	i.Start()
	after := podStats(t, pod)
	if got := after.Network.GetDefaultInterface(); got.GetRxBytes().GetValue() < net.RxBytes.Value || got.GetTxBytes().GetValue() < net.TxBytes.Value {
		t.Errorf("network: %v, before %v", got, net)
	}
	if len(after.Containers) != 1 || after.Containers[0].Cpu.GetUsageCoreNanoSeconds().GetValue() <= before {
		t.Errorf("containers: %v, before %d ns", after.Containers, before)
	}
	i.Wait("the walk", func() bool { return stats(t, c).WritableLayer != nil })
	if got := podMetrics(t, i)[pod.ID]; len(got.GetContainerMetrics()) != 1 {
		t.Errorf("metrics: %v", got)
	}
}
