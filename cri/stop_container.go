package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopContainer asks a container to end, and kills it after timeout seconds.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if r.GetContainerId() == "" {
		return nil, missing("container_id")
	}
	return &runtimeapi.StopContainerResponse{}, s.Sandboxes.StopContainer(ctx, r.GetContainerId(), seconds(r.GetTimeout()))
}

// seconds is a duration that neither overflows nor is negative.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(max(0, min(n, most/2))) * time.Second
}
