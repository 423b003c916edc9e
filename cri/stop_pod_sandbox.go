package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopPodSandbox ends all processes of a pod and gives its network back.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if r.GetPodSandboxId() == "" {
		return nil, missing("pod_sandbox_id")
	}
	return &runtimeapi.StopPodSandboxResponse{}, s.Sandboxes.StopPod(ctx, r.GetPodSandboxId())
}
