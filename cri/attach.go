package cri

import (
	"context"
	"io"
	"net/http"

	"github.com/cri-box/cri-box/cri/stream"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Attach returns the URL at which a client is connected to a container's streams.
func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(r); err != nil {
		return nil, err
	}
	c, err := s.Sandboxes.Attachable(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.Streams.Offer("attach", func(w http.ResponseWriter, req *http.Request) {
		client := session{s.Sandboxes, req, c.ID, nil, r}
		if serve := stream.Ours(req); serve != nil {
			serve(w, req, streamOptions(r), client.attach)
			return
		}
		remotecommand.ServeAttach(w, req, client, "", "", "", streamOptions(r),
			stream.IdleTimeout, stream.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: url}, nil
}

// AttachContainer implements remotecommand.Attacher.
func (s session) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser,
	_ bool, resize <-chan remotecommand.TerminalSize) error {
	return s.attach(in, out, errOut, resize)
}

func (s session) attach(in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	err := s.sandboxes.Attach(s.request.Context(), s.container, s.io(in, out, errOut, resize))
	s.abandon()
	return err
}
