package cri

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/cri-box/cri-box/cri/stream"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PortForward returns the URL at which connections to ports of a pod can be made.
func (s *Server) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if r.GetPodSandboxId() == "" {
		return nil, missing("pod_sandbox_id")
	}
	for _, port := range r.GetPort() {
		if port < 1 || port > 65535 {
			return nil, fmt.Errorf("port is %d; it has to be 1 to 65535: %w", port, spec.ErrInvalid)
		}
	}
	p, err := s.Sandboxes.Forwardable(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	url, err := s.Streams.Offer("portforward", func(w http.ResponseWriter, req *http.Request) {
		stream.ServePortForward(w, req, r.GetPort(), s.forwardTo(p.ID))
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}

func (s *Server) forwardTo(podID string) stream.Forward {
	return func(ctx context.Context, port uint16, client io.ReadWriteCloser) error {
		conn, err := s.Sandboxes.Dial(ctx, podID, port)
		if err != nil {
			slog.Info("cannot forward", "pod", podID[:12], "port", port, "err", err)
			return err
		}
		return stream.Pump(ctx, client, conn)
	}
}
