package cri

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage gets an image from its registry; image_ref is its id.
func (s *Server) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name := r.GetImage().GetImage()
	if name == "" {
		return nil, missing("image.image")
	}
	if h := r.GetImage().GetRuntimeHandler(); h != "" {
		return nil, fmt.Errorf("image.runtime_handler %q is not known: %w", h, spec.ErrInvalid)
	}
	began := time.Now()
	img, err := s.Images.Pull(ctx, name, auth(r.GetAuth()), func(p image.Progress) {
		slog.Debug("pulling", "image", name, "bytes", p.Bytes, "total", p.Total, "layers_done", p.Done, "layers", p.Layers)
	})
	if err != nil {
		return nil, err
	}
	slog.Info("pulled", "image", name, "id", img.ID, "took", time.Since(began))
	return &runtimeapi.PullImageResponse{ImageRef: img.ID}, nil
}

func auth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
}
