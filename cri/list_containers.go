package cri

import (
	"context"
	"strings"

	"github.com/cri-box/cri-box/sandbox"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListContainers lists the containers that a filter lets through.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range s.Sandboxes.List().Containers {
		if containerMatches(c, r.GetFilter()) {
			resp.Containers = append(resp.Containers, listedContainer(c))
		}
	}
	return resp, nil
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
