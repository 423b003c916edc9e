package cri

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListPodSandbox lists the pods that a filter lets through.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: slices.Collect(s.pods(r.GetFilter()))}, nil
}

// StreamPodSandboxes does the same in messages of bounded size.
func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return sendBatches(s.pods(r.GetFilter()), func(batch []*runtimeapi.PodSandbox) error {
		return out.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: batch})
	})
}

func (s *Server) pods(f *runtimeapi.PodSandboxFilter) iter.Seq[*runtimeapi.PodSandbox] {
	return func(yield func(*runtimeapi.PodSandbox) bool) {
		for _, p := range s.Sandboxes.List().Pods {
			if podMatches(p, f) && !yield(listedPod(p)) {
				return
			}
		}
	}
}

func listedPod(p *sandbox.Pod) *runtimeapi.PodSandbox {
	c := p.Config.Of
	return &runtimeapi.PodSandbox{Id: p.ID, Metadata: c.GetMetadata(), State: podState(p), CreatedAt: p.CreatedAt.UnixNano(),
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), RuntimeHandler: p.Handler}
}

func podMatches(p *sandbox.Pod, f *runtimeapi.PodSandboxFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(p.ID, f.GetId()) &&
		(f.GetState() == nil || f.GetState().GetState() == podState(p)) &&
		selects(f.GetLabelSelector(), p.Config.Of.GetLabels())
}

// selects tells whether all pairs of selector are in labels.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
