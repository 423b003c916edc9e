package cri

import (
	"context"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStats measures one container.
func (s *Server) ContainerStats(_ context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.Sandboxes.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	u, err := s.Sandboxes.ContainerUse(c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(u)}, nil
}

// ListContainerStats measures the containers that a filter lets through.
func (s *Server) ListContainerStats(_ context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: slices.Collect(s.measuredContainers(r.GetFilter()))}, nil
}

// StreamContainerStats does the same in messages of bounded size.
func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	return sendBatches(s.measuredContainers(r.GetFilter()), func(batch []*runtimeapi.ContainerStats) error {
		return out.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: batch})
	})
}

// measuredContainers measures the containers that a filter lets through, a batch
// before the first of it is passed on.
func (s *Server) measuredContainers(f *runtimeapi.ContainerStatsFilter) iter.Seq[*runtimeapi.ContainerStats] {
	const batch = 64
	return func(yield func(*runtimeapi.ContainerStats) bool) {
		for some := range slices.Chunk(s.selectedContainers(f), batch) {
			for _, one := range s.measureAll(some) {
				if !yield(one) {
					return
				}
			}
		}
	}
}

func (s *Server) selectedContainers(f *runtimeapi.ContainerStatsFilter) (out []*sandbox.Container) {
	for _, c := range s.Sandboxes.List().Containers {
		if strings.HasPrefix(c.ID, f.GetId()) && strings.HasPrefix(c.PodID, f.GetPodSandboxId()) &&
			selects(f.GetLabelSelector(), c.Config.Of.GetLabels()) {
			out = append(out, c)
		}
	}
	return out
}

// measureMost is how many containers are measured at a time: the kernel adds up the
// numbers of each when they are read, on the core that asks.
const measureMost = 4

func (s *Server) measureAll(containers []*sandbox.Container) []*runtimeapi.ContainerStats {
	out := make([]*runtimeapi.ContainerStats, len(containers))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(measureMost, runtime.GOMAXPROCS(0), len(containers)) {
		workers.Go(func() {
			for i := next.Add(1); i <= int64(len(containers)); i = next.Add(1) {
				out[i-1] = s.measure(containers[i-1])
			}
		})
	}
	workers.Wait()
	return out
}

// measure leaves out the numbers of a container that cannot be measured, and not the
// container.
func (s *Server) measure(c *sandbox.Container) *runtimeapi.ContainerStats {
	u, err := s.Sandboxes.ContainerUse(c)
	if err != nil {
		slog.Warn("container is listed without its numbers", "err", err)
	}
	return s.containerStats(u)
}

func (s *Server) containerStats(u sandbox.ContainerUse) *runtimeapi.ContainerStats {
	cfg := u.Config.Of
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: u.ID, Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()},
	}
	if d := u.Disk; d != nil {
		out.WritableLayer = s.fileSystemUse(d.At, d.Bytes, d.Inodes)
	}
	if st := u.Cgroup; st != nil {
		out.Cpu, out.Memory, out.Swap, out.Io = cpuUse(st, u.NanoCores), memoryUse(st), swapUse(st), ioUse(st)
	}
	return out
}

func (s *Server) fileSystemUse(at time.Time, bytes, inodes uint64) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{Timestamp: at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.Images.Root()},
		UsedBytes: value(bytes), InodesUsed: value(inodes)}
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func cpuUse(st *cgroup.Stats, nanoCores uint64) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: st.Time.UnixNano(), UsageCoreNanoSeconds: value(st.CPU.Usage),
		UsageNanoCores: value(nanoCores), Psi: pressure(st.CPU.Pressure)}
}

// memoryUse has available bytes only where there is a limit.
func memoryUse(st *cgroup.Stats) *runtimeapi.MemoryUsage {
	m := &st.Memory
	out := &runtimeapi.MemoryUsage{Timestamp: st.Time.UnixNano(), WorkingSetBytes: value(m.WorkingSet), UsageBytes: value(m.Usage),
		RssBytes: value(m.RSS), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults), Psi: pressure(m.Pressure)}
	if m.Limit > 0 {
		out.AvailableBytes = value(m.Limit - min(m.Limit, m.WorkingSet))
	}
	return out
}

func swapUse(st *cgroup.Stats) *runtimeapi.SwapUsage {
	m := &st.Memory
	return &runtimeapi.SwapUsage{Timestamp: st.Time.UnixNano(), SwapUsageBytes: value(m.Swap),
		SwapAvailableBytes: value(m.SwapLimit - min(m.SwapLimit, m.Swap))}
}

func ioUse(st *cgroup.Stats) *runtimeapi.IoUsage {
	return &runtimeapi.IoUsage{Timestamp: st.Time.UnixNano(), Psi: pressure(st.IO.Pressure)}
}

// pressure is nil on a host that does not measure it. The kernel's totals are
// microseconds (psi.rst), the CRI's nanoseconds.
func pressure(p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total * 1000, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}
