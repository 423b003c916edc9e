package cri

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultInterface is the pod's way out: the CNI's name for it, and the kubelet's
// (cri_stats_provider_linux.go).
const defaultInterface = "eth0"

// PodSandboxStats measures one pod.
func (s *Server) PodSandboxStats(_ context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	p, err := s.Sandboxes.Pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	meter := s.Sandboxes.NewMeter()
	defer meter.Close()
	u, err := meter.Pod(p)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.podStats(u)}, nil
}

// ListPodSandboxStats measures the pods that a filter lets through.
func (s *Server) ListPodSandboxStats(_ context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: slices.Collect(s.measuredPods(r.GetFilter()))}, nil
}

// StreamPodSandboxStats does the same in messages of bounded size.
func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return sendBatches(s.measuredPods(r.GetFilter()), func(batch []*runtimeapi.PodSandboxStats) error {
		return out.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: batch})
	})
}

func (s *Server) measuredPods(f *runtimeapi.PodSandboxStatsFilter) iter.Seq[*runtimeapi.PodSandboxStats] {
	return func(yield func(*runtimeapi.PodSandboxStats) bool) {
		s.eachPodUse(func(p *sandbox.Pod) bool {
			return strings.HasPrefix(p.ID, f.GetId()) && selects(f.GetLabelSelector(), p.Config.Of.GetLabels())
		}, func(u sandbox.PodUse) bool { return yield(s.podStats(u)) })
	}
}

// eachPodUse measures the pods that are wanted, until yield has enough.
func (s *Server) eachPodUse(want func(*sandbox.Pod) bool, yield func(sandbox.PodUse) bool) {
	meter := s.Sandboxes.NewMeter()
	defer meter.Close()
	for _, p := range s.Sandboxes.List().Pods {
		if !want(p) {
			continue
		}
		u, err := meter.Pod(p)
		if err != nil {
			slog.Warn("pod is listed without some of its numbers", "err", err)
		}
		if !yield(u) {
			return
		}
	}
}

func (s *Server) podStats(u sandbox.PodUse) *runtimeapi.PodSandboxStats {
	cfg := u.Config.Of
	l := &runtimeapi.LinuxPodSandboxStats{Network: networkUse(u.Network)}
	if st := u.Cgroup; st != nil {
		l.Cpu, l.Memory, l.Io = cpuUse(st, u.NanoCores), memoryUse(st), ioUse(st)
		l.Process = &runtimeapi.ProcessUsage{Timestamp: st.Time.UnixNano(), ProcessCount: value(u.Processes)}
	}
	for _, c := range u.Containers {
		l.Containers = append(l.Containers, s.containerStats(c))
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: u.ID, Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()},
		Linux:      l,
	}
}

// networkUse has the default interface apart from the others.
func networkUse(n *sandbox.NetworkUse) *runtimeapi.NetworkUsage {
	if n == nil {
		return nil
	}
	out := &runtimeapi.NetworkUsage{Timestamp: n.At.UnixNano()}
	for _, i := range n.Interfaces {
		if i.Name == defaultInterface {
			out.DefaultInterface = interfaceUse(i)
			continue
		}
		out.Interfaces = append(out.Interfaces, interfaceUse(i))
	}
	return out
}

func interfaceUse(i netns.Interface) *runtimeapi.NetworkInterfaceUsage {
	return &runtimeapi.NetworkInterfaceUsage{Name: i.Name, RxBytes: value(i.RX.Bytes), RxErrors: value(i.RX.Errors),
		TxBytes: value(i.TX.Bytes), TxErrors: value(i.TX.Errors)}
}
