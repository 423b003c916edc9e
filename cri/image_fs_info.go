package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo says what images take on disk, and what containers wrote. Both are
// on one file system, and each byte is in one of them.
func (s *Server) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	bytes, inodes := s.Images.Fs()
	written, files, at := s.Sandboxes.WritableUse()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{s.fileSystemUse(time.Now(), bytes, inodes)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{s.fileSystemUse(at, written, files)},
	}, nil
}
