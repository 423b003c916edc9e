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
	img, err := s.Images.Pull(ctx, name, auth(r.GetAuth()), TellPull(name))
	if err != nil {
		return nil, err
	}
	slog.Info("pulled", "image", name, "id", img.ID, "took", time.Since(began))
	return &runtimeapi.PullImageResponse{ImageRef: img.ID}, nil
}

// pullTold is how long the log is silent about a pull that is under way.
const pullTold = 10 * time.Second

// TellPull returns what tells the log how far a pull of that name is: at its
// beginning and every ten seconds, at level debug each time.
func TellPull(name string) func(image.Progress) {
	return tellPull(name, time.Now)
}

func tellPull(name string, now func() time.Time) func(image.Progress) {
	var told time.Time
	return func(p image.Progress) {
		level := slog.LevelDebug
		if t := now(); t.Sub(told) >= pullTold {
			level, told = slog.LevelInfo, t
		}
		slog.Log(context.Background(), level, "pulling", "image", name, "bytes", p.Bytes, "total", p.Total, "layers_done", p.Done, "layers", p.Layers)
	}
}

func auth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
}
