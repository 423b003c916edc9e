package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveImage removes an image with all its names, across registries.
func (s *Server) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	name := r.GetImage().GetImage()
	if name == "" {
		return nil, missing("image.image")
	}
	return &runtimeapi.RemoveImageResponse{}, s.Images.Remove(name)
}
