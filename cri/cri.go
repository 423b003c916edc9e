// Package cri is the gRPC face: CRI v1 as k8s.io/cri-api 0.37.2 has it. There is
// one file per RPC, and each does the same: validate, call sandbox or image,
// translate. Nothing here knows the kernel or the disk.
package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/cri-box/cri-box/cri/stream"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Server answers both services of the CRI.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	Sandboxes *sandbox.Manager
	Images    *image.Store
	// Streams serves exec, attach and port-forward.
	Streams *stream.Server
	// Network returns nil when a pod may start, else why not.
	Network func() error
	// NetworkNote is what a person has to know of a network that is ready; may be "".
	NetworkNote func() string
	// PodCIDR takes over the node's range of pod addresses.
	PodCIDR func(string) error
	// Ready returns nil when the runtime may be used, else why not.
	Ready func() error
	// RuntimeVersion is cri-box's own, a semantic version: the kubelet parses it.
	RuntimeVersion string
	// MountAttributes says that the kernel takes mount_setattr(2), as was tried at
	// start: recursive read-only mounts and mount_options are by it.
	MountAttributes bool
	// UserNamespaces says that pods can have user namespaces, as was tried at start.
	UserNamespaces bool
	// CgroupDriver is "cgroupfs" or "systemd".
	CgroupDriver string
	// Info is what Status shows when it is asked for more.
	Info func() map[string]string
}

// Register puts both services on s.
func (s *Server) Register(g *grpc.Server) {
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s)
}

// codeOf is the one place where kinds of error become gRPC codes.
func codeOf(err error) codes.Code {
	for _, k := range []struct {
		kind error
		code codes.Code
	}{
		{spec.ErrInvalid, codes.InvalidArgument},
		{image.ErrInvalidName, codes.InvalidArgument},
		{image.ErrInvalidAuth, codes.InvalidArgument},
		{sandbox.ErrNotFound, codes.NotFound},
		{image.ErrNotFound, codes.NotFound},
		{sandbox.ErrExists, codes.AlreadyExists},
		{sandbox.ErrState, codes.FailedPrecondition},
		{image.ErrAccessDenied, codes.PermissionDenied},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{stream.ErrTooMany, codes.ResourceExhausted},
		{sandbox.ErrUnavailable, codes.Unavailable},
		{keeper.ErrKeeperLost, codes.Unavailable},
		{keeper.ErrSpawnerLost, codes.Unavailable},
		// The kubelet reads a pull's error by its first word, and strips only this code.
		{image.ErrRegistryUnavailable, codes.Unknown},
		{image.ErrSignatureValidationFailed, codes.Unknown},
	} {
		if errors.Is(err, k.kind) {
			return k.code
		}
	}
	return codes.Internal
}

// Intercept turns errors into gRPC status, logs what was slow or failed, and
// keeps a panic in one call from ending the daemon.
func Intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, status.Errorf(codes.Internal, "internal error in %s: %v", info.FullMethod, p)
		}
	}()
	resp, err = handler(ctx, req)
	return resp, outcome(ctx, info.FullMethod, began, err)
}

// missing refuses a request without its main part.
func missing(field string) error {
	return fmt.Errorf("%s is missing: %w", field, spec.ErrInvalid)
}
