package cri

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSendBatches: every item once and in order, no message too large, none empty.
func TestSendBatches(t *testing.T) {
	small := &runtimeapi.Container{Id: "c"}
	large := &runtimeapi.Container{Id: "c", Annotations: map[string]string{"a": strings.Repeat("x", batchBytes*2/3)}}
	for name, c := range map[string]struct {
		list []*runtimeapi.Container
		want []int
	}{
		"none":  {nil, nil},
		"one":   {[]*runtimeapi.Container{small}, []int{1}},
		"many":  {slices.Repeat([]*runtimeapi.Container{small}, 2*batchItems+1), []int{batchItems, batchItems, 1}},
		"large": {[]*runtimeapi.Container{small, large, large, small}, []int{2, 2}},
	} {
		var got []int
		var all []*runtimeapi.Container
		err := sendBatches(slices.Values(c.list), func(batch []*runtimeapi.Container) error {
			got, all = append(got, len(batch)), append(all, batch...)
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) || !slices.Equal(all, c.list) {
			t.Errorf("%s: batches of %v, wanted %v; %v", name, got, c.want, err)
		}
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

// TestInterceptStream: errors of streams get codes, and a panic ends one stream.
func TestInterceptStream(t *testing.T) {
	info := &grpc.StreamServerInfo{FullMethod: "/test"}
	for _, c := range []struct {
		handler grpc.StreamHandler
		want    codes.Code
	}{
		{func(any, grpc.ServerStream) error { return nil }, codes.OK},
		{func(any, grpc.ServerStream) error { return fmt.Errorf("pod: %w", sandbox.ErrNotFound) }, codes.NotFound},
		{func(any, grpc.ServerStream) error { panic("lost") }, codes.Internal},
	} {
		err := InterceptStream(nil, fakeStream{ctx: t.Context()}, info, c.handler)
		if got := status.Code(err); got != c.want {
			t.Errorf("got %v, wanted %v: %v", got, c.want, err)
		}
	}
}
