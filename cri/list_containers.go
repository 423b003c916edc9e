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

// ListContainers lists the containers that a filter lets through.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: slices.Collect(s.containers(r.GetFilter()))}, nil
}

// StreamContainers does the same in messages of bounded size.
func (s *Server) StreamContainers(r *runtimeapi.StreamContainersRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return sendBatches(s.containers(r.GetFilter()), func(batch []*runtimeapi.Container) error {
		return out.Send(&runtimeapi.StreamContainersResponse{Containers: batch})
	})
}

func (s *Server) containers(f *runtimeapi.ContainerFilter) iter.Seq[*runtimeapi.Container] {
	return func(yield func(*runtimeapi.Container) bool) {
		for _, c := range s.Sandboxes.List().Containers {
			if containerMatches(c, f) && !yield(listedContainer(c)) {
				return
			}
		}
	}
}

func listedContainer(c *sandbox.Container) *runtimeapi.Container {
	cfg := c.Config.Of
	return &runtimeapi.Container{Id: c.ID, PodSandboxId: c.PodID, Metadata: cfg.GetMetadata(), Image: imageSpec(c), ImageRef: c.Image.ID,
		ImageId: c.Image.ID, State: c.State(), CreatedAt: c.CreatedAt.UnixNano(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()}
}

func containerMatches(c *sandbox.Container, f *runtimeapi.ContainerFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(c.ID, f.GetId()) && strings.HasPrefix(c.PodID, f.GetPodSandboxId()) &&
		(f.GetState() == nil || f.GetState().GetState() == c.State()) &&
		selects(f.GetLabelSelector(), c.Config.Of.GetLabels())
}
