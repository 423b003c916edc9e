package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListImages lists all images, or the one that the filter names.
func (s *Server) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	resp := &runtimeapi.ListImagesResponse{}
	if name := r.GetFilter().GetImage().GetImage(); name != "" {
		if img, ok := s.Images.Resolve(name); ok {
			resp.Images = append(resp.Images, listedImage(img))
		}
		return resp, nil
	}
	for _, img := range s.Images.List() {
		resp.Images = append(resp.Images, listedImage(img))
	}
	return resp, nil
}
