package metrics

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// Unary counts and times a call.
func (m *Metrics) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	done := m.begin(info.FullMethod)
	resp, err := next(ctx, req)
	done(err)
	return resp, err
}

// Stream does so for a streaming call, from its first to its last message.
func (m *Metrics) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	done := m.begin(info.FullMethod)
	err := next(srv, stream)
	done(err)
	return err
}

func (m *Metrics) begin(full string) (done func(error)) {
	method, began := path.Base(full), time.Now()
	flying := m.flying.WithLabelValues(method)
	flying.Inc()
	return func(err error) {
		flying.Dec()
		m.calls.WithLabelValues(method, status.Code(err).String()).Observe(time.Since(began).Seconds())
	}
}
