package cri

import (
	"context"
	"fmt"

	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainerResources changes limits of a container, all or none.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if r.GetWindows() != nil {
		return nil, fmt.Errorf("windows: this node runs Linux containers: %w", spec.ErrInvalid)
	}
	if r.GetLinux() == nil {
		return nil, missing("linux")
	}
	if err := s.Sandboxes.UpdateContainer(ctx, r); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}
