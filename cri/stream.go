package cri

import (
	"context"
	"iter"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A message of a streamed list has at most this many items and, unless one item
// alone is larger, this many bytes: far from the kubelet's limit of 16 MiB, which
// is why these calls exist (KEP-5825).
const (
	batchItems = 500
	batchBytes = 1 << 20
)

// sendBatches sends a list as it is made, in messages of some items each. An
// empty list is no message at all.
func sendBatches[T proto.Message](list iter.Seq[T], send func([]T) error) error {
	var batch []T
	bytes := 0
	for item := range list {
		size := proto.Size(item)
		if len(batch) > 0 && (len(batch) == batchItems || bytes+size > batchBytes) {
			if err := send(batch); err != nil {
				return err
			}
			batch, bytes = nil, 0
		}
		batch, bytes = append(batch, item), bytes+size
	}
	if len(batch) == 0 {
		return nil
	}
	return send(batch)
}

// InterceptStream does for streams what Intercept does for other calls.
func InterceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "internal error in %s: %v", info.FullMethod, p)
		}
	}()
	return outcome(stream.Context(), info.FullMethod, began, handler(srv, stream))
}

// outcome logs how a call ended and gives its error a code.
func outcome(ctx context.Context, method string, began time.Time, err error) error {
	if err == nil {
		slog.Debug("call", "method", method, "took", time.Since(began))
		return nil
	}
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codeOf(err), err.Error())
	}
	level := slog.LevelInfo
	if status.Code(err) == codes.Internal {
		level = slog.LevelError
	}
	slog.Log(ctx, level, "call failed", "method", method, "took", time.Since(began), "err", err)
	return err
}
