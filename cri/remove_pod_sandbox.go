package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemovePodSandbox removes a pod with its containers, by force.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if r.GetPodSandboxId() == "" {
		return nil, missing("pod_sandbox_id")
	}
	return &runtimeapi.RemovePodSandboxResponse{}, s.Sandboxes.RemovePod(ctx, r.GetPodSandboxId())
}
