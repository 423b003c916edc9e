package stats_test

import (
	"fmt"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fleet is 20 pods with 2 containers each.
func fleet(b *testing.B) *harness.Instance {
	i := harness.New(b)
	image := i.Image(probe)
	for range 20 {
		pod := i.RunPod()
		for n := range 2 {
			pod.Run(fmt.Sprint("c", n), image, sleeper)
		}
	}
	return i
}

func bench(b *testing.B, call func() (int, error), want int) {
	b.ReportAllocs()
	for b.Loop() {
		if n, err := call(); err != nil || n != want {
			b.Fatal(n, err)
		}
	}
}

// What a node is asked every second or every ten, with 40 containers in 20 pods.
func BenchmarkLists(b *testing.B) {
	i := fleet(b)
	ctx := b.Context()
	b.Run("ListContainerStats", func(b *testing.B) {
		bench(b, func() (int, error) {
			resp, err := i.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return len(resp.GetStats()), err
		}, 40)
	})
	b.Run("ListPodSandboxStats", func(b *testing.B) {
		bench(b, func() (int, error) {
			resp, err := i.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return len(resp.GetStats()), err
		}, 20)
	})
	b.Run("ListPodSandbox", func(b *testing.B) {
		bench(b, func() (int, error) {
			resp, err := i.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return len(resp.GetItems()), err
		}, 20)
	})
	b.Run("ListContainers", func(b *testing.B) {
		bench(b, func() (int, error) {
			resp, err := i.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return len(resp.GetContainers()), err
		}, 40)
	})
}
