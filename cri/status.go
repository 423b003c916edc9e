package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status says whether runtime and network are ready, and what they can.
func (s *Server) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			condition("RuntimeReady", "RuntimeNotReady", s.Ready()),
			s.networkCondition(),
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: s.MountAttributes, UserNamespaces: s.UserNamespaces}}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: s.MountAttributes, UserNamespacesHostNetwork: s.UserNamespaces},
	}
	if r.GetVerbose() {
		resp.Info = s.Info()
	}
	return resp, nil
}

// networkCondition carries a message also when it is true: a configuration file
// that cannot be used, say, while another one serves.
func (s *Server) networkCondition() *runtimeapi.RuntimeCondition {
	c := condition("NetworkReady", "NetworkNotReady", s.Network())
	if c.Status {
		c.Message = s.NetworkNote()
	}
	return c
}

func condition(kind, reason string, err error) *runtimeapi.RuntimeCondition {
	if err == nil {
		return &runtimeapi.RuntimeCondition{Type: kind, Status: true}
	}
	return &runtimeapi.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
}
