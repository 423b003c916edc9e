package cri

import (
	"context"
	"iter"
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListImages lists all images, or the one that the filter names.
func (s *Server) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: slices.Collect(s.images(r.GetFilter()))}, nil
}

// StreamImages does the same in messages of bounded size.
func (s *Server) StreamImages(r *runtimeapi.StreamImagesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	return sendBatches(s.images(r.GetFilter()), func(batch []*runtimeapi.Image) error {
		return out.Send(&runtimeapi.StreamImagesResponse{Images: batch})
	})
}

func (s *Server) images(f *runtimeapi.ImageFilter) iter.Seq[*runtimeapi.Image] {
	return func(yield func(*runtimeapi.Image) bool) {
		if name := f.GetImage().GetImage(); name != "" {
			if img, ok := s.Images.Resolve(name); ok {
				yield(listedImage(img))
			}
			return
		}
		for _, img := range s.Images.List() {
			if !yield(listedImage(img)) {
				return
			}
		}
	}
}
