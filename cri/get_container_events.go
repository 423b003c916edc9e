package cri

import (
	"errors"

	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// GetContainerEvents sends what happens to pods and containers from now on until
// the client or the daemon ends. The header goes out at once: from then on nothing
// is missed.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, out grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := s.Sandboxes.Subscribe()
	defer events.Close()
	if err := out.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		e, err := events.Next(out.Context())
		if errors.Is(err, sandbox.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Send(s.event(e)); err != nil {
			return err
		}
	}
}

// event is the change with the pod and all its containers as they then stood.
func (s *Server) event(e sandbox.Event) *runtimeapi.ContainerEventResponse {
	resp := &runtimeapi.ContainerEventResponse{ContainerId: e.ID, ContainerEventType: e.Kind, CreatedAt: e.At.UnixNano()}
	if e.Pod == nil {
		return resp
	}
	resp.PodSandboxStatus = podStatus(e.Pod)
	for c := range e.Snapshot.In(e.Pod.ID) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, s.containerStatus(c))
	}
	return resp
}
