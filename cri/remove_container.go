package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveContainer removes a container, by force if it runs.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if r.GetContainerId() == "" {
		return nil, missing("container_id")
	}
	return &runtimeapi.RemoveContainerResponse{}, s.Sandboxes.RemoveContainer(ctx, r.GetContainerId())
}
