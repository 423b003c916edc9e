package cri

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What Status offers is what was found at start, no more.
func TestStatusOffersWhatIsThere(t *testing.T) {
	for _, have := range []bool{true, false} {
		s := &Server{MountAttributes: have, UserNamespaces: have, Ready: func() error { return nil }, Network: func() error { return nil }, NetworkNote: func() string { return "" }}
		r, err := s.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.RuntimeHandlers[0].Features.RecursiveReadOnlyMounts; got != have {
			t.Errorf("recursive read-only mounts: %v, want %v", got, have)
		}
		if got := r.RuntimeHandlers[0].Features.UserNamespaces; got != have {
			t.Errorf("user namespaces: %v, want %v", got, have)
		}
		if got := r.Features.UserNamespacesHostNetwork; got != have {
			t.Errorf("user namespaces on the host's network: %v, want %v", got, have)
		}
		if got := r.Features.MountOptions; got != have {
			t.Errorf("mount options: %v, want %v", got, have)
		}
	}
}
