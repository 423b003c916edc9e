package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// flushBound is how long the last spans may take to be sent when the daemon ends.
const flushBound = 2 * time.Second

// startTracing sends spans where the configuration says; without an endpoint there
// are none, and making one costs nothing. end sends the last ones.
func startTracing(ctx context.Context, c config.Tracing) (end func(), err error) {
	if c.Endpoint == "" {
		return func() {}, nil
	}
	// It connects in the background: a collector that is away holds up nothing.
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(c.Endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("cannot trace ([tracing] endpoint = %q): %w", c.Endpoint, err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter),
		trace.WithResource(resource.NewSchemaless(attribute.String("service.name", "cri-box"), attribute.String("service.version", version))),
		trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(float64(c.Sampling)/1e6))))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Debug("tracing", "err", err) }))
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushBound)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("spans were not sent", "err", err)
		}
	}, nil
}

// traceCalls gives each call a span, in the caller's trace if there is one. Those
// who do not trace do not pay for it.
func traceCalls(c config.Tracing) []grpc.ServerOption {
	if c.Endpoint == "" {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler())}
}
