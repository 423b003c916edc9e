package cri

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errNoCheckpoint answers the three calls that save and restore processes.
func errNoCheckpoint(call string) error {
	return status.Errorf(codes.Unimplemented, "%s: cri-box does not save or restore the state of processes", call)
}

// CheckpointContainer is not done.
func (s *Server) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, errNoCheckpoint("CheckpointContainer")
}

// CheckpointPod is not done.
func (s *Server) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, errNoCheckpoint("CheckpointPod")
}

// RestorePod is not done.
func (s *Server) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, errNoCheckpoint("RestorePod")
}
