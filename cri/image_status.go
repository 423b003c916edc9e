package cri

import (
	"context"
	"encoding/json"

	"github.com/cri-box/cri-box/oci/image"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus describes an image; one that is not here is no error.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	name := r.GetImage().GetImage()
	if name == "" {
		return nil, missing("image.image")
	}
	img, ok := s.Images.Resolve(name)
	if !ok {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	resp := &runtimeapi.ImageStatusResponse{Image: listedImage(img)}
	if r.GetVerbose() {
		b, err := json.Marshal(map[string]any{"imageSpec": img.Config, "layers": img.Layers, "manifest": img.Manifest})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"info": string(b)}
	}
	return resp, nil
}

func listedImage(img image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size),
		Username: img.Username, Pinned: img.Pinned, Spec: &runtimeapi.ImageSpec{Image: img.ID}}
	if img.UID != nil {
		out.Uid = &runtimeapi.Int64Value{Value: *img.UID}
	}
	return out
}
