package cri

import (
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/cgroup"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStatsInCRI: which number of the kernel's goes where, in which unit.
func TestStatsInCRI(t *testing.T) {
	at := time.Unix(5, 6)
	st := &cgroup.Stats{
		Time: at,
		CPU: cgroup.CPUStats{Usage: 10, Pressure: &cgroup.Pressure{
			Some: cgroup.PressureLine{Avg10: 1, Avg60: 2, Avg300: 3, Total: 4}, Full: cgroup.PressureLine{Avg10: 5, Avg60: 6, Avg300: 7, Total: 8}}},
		Memory: cgroup.MemoryStats{Usage: 100, WorkingSet: 60, RSS: 50, Limit: 200, Swap: 30, SwapLimit: 70, PageFaults: 1, MajorPageFaults: 2},
		IO:     cgroup.IOStats{Pressure: &cgroup.Pressure{Some: cgroup.PressureLine{Total: 9}}},
	}
	ns := at.UnixNano()
	for name, c := range map[string]struct{ got, want proto.Message }{
		"cpu": {cpuUse(st, 77), &runtimeapi.CpuUsage{Timestamp: ns, UsageCoreNanoSeconds: value(10), UsageNanoCores: value(77), Psi: &runtimeapi.PsiStats{
			Some: &runtimeapi.PsiData{Avg10: 1, Avg60: 2, Avg300: 3, Total: 4000}, Full: &runtimeapi.PsiData{Avg10: 5, Avg60: 6, Avg300: 7, Total: 8000}}}},
		"memory": {memoryUse(st), &runtimeapi.MemoryUsage{Timestamp: ns, UsageBytes: value(100), WorkingSetBytes: value(60), RssBytes: value(50),
			AvailableBytes: value(140), PageFaults: value(1), MajorPageFaults: value(2)}},
		"swap": {swapUse(st), &runtimeapi.SwapUsage{Timestamp: ns, SwapUsageBytes: value(30), SwapAvailableBytes: value(40)}},
		"io": {ioUse(st), &runtimeapi.IoUsage{Timestamp: ns, Psi: &runtimeapi.PsiStats{
			Some: &runtimeapi.PsiData{Total: 9000}, Full: &runtimeapi.PsiData{}}}},
		"unlimited": {memoryUse(&cgroup.Stats{Time: at}), &runtimeapi.MemoryUsage{Timestamp: ns, UsageBytes: value(0), WorkingSetBytes: value(0),
			RssBytes: value(0), PageFaults: value(0), MajorPageFaults: value(0)}},
	} {
		if !proto.Equal(c.got, c.want) {
			t.Errorf("%s: got %v, wanted %v", name, c.got, c.want)
		}
	}
}
