package cli_test

import (
	"context"
	"encoding/hex"
	"slices"
	"sync"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An otlp is a collector of spans, as OpenTelemetry's speak to.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (o *otlp) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			o.spans = append(o.spans, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// of lists the spans of a trace.
func (o *otlp) of(trace string) (list []*tracepb.Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			list = append(list, s)
		}
	}
	return list
}

// TestTracing: a call that the kubelet traces is a span in its trace, and each step
// of it is one below; what nobody traces is not told.
func TestTracing(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	i := harness.New(t, harness.Args("--set", "tracing.endpoint=127.0.0.1:4317"))
	listener, err := i.Node.Listen("127.0.0.1:4317")
	if err != nil {
		t.Fatal(err)
	}
	o := &otlp{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, o)
	go server.Serve(listener)
	t.Cleanup(server.Stop)

	i.RunPod() // untraced
	config := i.PodConfig()
	ctx := metadata.AppendToOutgoingContext(i.Context(), "traceparent", "00-"+trace+"-"+parent+"-01")
	resp, err := i.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	i.Stop() // sends what it has
	spans := o.of(trace)
	call := slices.IndexFunc(spans, func(s *tracepb.Span) bool { return s.Name == "runtime.v1.RuntimeService/RunPodSandbox" })
	if call < 0 || hex.EncodeToString(spans[call].ParentSpanId) != parent {
		t.Fatalf("%d spans, none of RunPodSandbox below the caller's", len(spans))
	}
	for _, step := range []string{"write record", "make namespaces", "attach network", "publish"} {
		n := slices.IndexFunc(spans, func(s *tracepb.Span) bool { return s.Name == step })
		if n < 0 || !slices.Equal(spans[n].ParentSpanId, spans[call].SpanId) || spans[n].EndTimeUnixNano < spans[n].StartTimeUnixNano {
			t.Errorf("no span of step %q below the call's", step)
		}
	}
	if len(o.spans) != len(spans) {
		t.Errorf("%d spans of what nobody traces", len(o.spans)-len(spans))
	}
	i.Start()
	if _, err := i.Runtime.RemovePodSandbox(i.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: resp.PodSandboxId}); err != nil {
		t.Error(err)
	}
}
