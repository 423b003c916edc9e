package stats_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// all reads a stream to its end.
func all[R, T any](t *testing.T, items func(*R) []T, open func() (grpc.ServerStreamingClient[R], error)) []T {
	t.Helper()
	stream, err := open()
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(items(resp)) == 0 {
			t.Error("a message without items")
		}
		out = append(out, items(resp)...)
	}
}

// ids names items, sorted.
func ids[T any](list []T, id func(T) string) []string {
	var out []string
	for _, item := range list {
		out = append(out, id(item))
	}
	slices.Sort(out)
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, wanted %v", what, got, want)
	}
}

// TestStreamedLists: they have what the other lists have, also through a filter.
func TestStreamedLists(t *testing.T) {
	i := harness.New(t)
	image := i.Image(probe)
	var pods, containers []string
	for n := range 3 {
		pod := i.RunPod()
		c := pod.Create(fmt.Sprint("c", n), image, sleeper, func(c *runtimeapi.ContainerConfig) { c.Labels = map[string]string{"n": fmt.Sprint(n)} })
		pods, containers = append(pods, pod.ID), append(containers, c.ID)
	}
	ctx := i.Context()
	gotPods := all(t, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes, func() (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxesResponse], error) {
		return i.Runtime.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	})
	same(t, "pods", ids(gotPods, (*runtimeapi.PodSandbox).GetId), slices.Clone(pods))
	gotPods = all(t, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes, func() (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxesResponse], error) {
		return i.Runtime.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: pods[1]}})
	})
	same(t, "one pod", ids(gotPods, (*runtimeapi.PodSandbox).GetId), []string{pods[1]})
	stream := func(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
		return all(t, (*runtimeapi.StreamContainersResponse).GetContainers, func() (grpc.ServerStreamingClient[runtimeapi.StreamContainersResponse], error) {
			return i.Runtime.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: f})
		})
	}
	same(t, "containers", ids(stream(nil), (*runtimeapi.Container).GetId), slices.Clone(containers))
	same(t, "containers by label", ids(stream(&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"n": "2"}}), (*runtimeapi.Container).GetId), []string{containers[2]})
	same(t, "no containers", ids(stream(&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"n": "3"}}), (*runtimeapi.Container).GetId), nil)
	images := all(t, (*runtimeapi.StreamImagesResponse).GetImages, func() (grpc.ServerStreamingClient[runtimeapi.StreamImagesResponse], error) {
		return i.Images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	})
	if len(images) != 1 || !slices.Contains(images[0].RepoTags, image) {
		t.Errorf("images: got %v, wanted %s", images, image)
	}
}

// TestListIsOneMoment: what changes while a list is sent is not in it, and does not
// wait for its reader.
func TestListIsOneMoment(t *testing.T) {
	i := harness.New(t)
	large := func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"large": strings.Repeat("x", 400<<10)} // three of them are two messages
	}
	var pods []string
	for range 3 {
		pods = append(pods, i.RunPod(large).ID)
	}
	stream, err := i.Runtime.StreamPodSandboxes(i.Context(), &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	later := i.RunPod()
	rest := all(t, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes, func() (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxesResponse], error) {
		return stream, nil
	})
	if len(first.PodSandboxes) == 0 || len(rest) == 0 {
		t.Fatalf("it came in messages of %d and %d", len(first.PodSandboxes), len(rest))
	}
	same(t, "pods", ids(append(first.PodSandboxes, rest...), (*runtimeapi.PodSandbox).GetId), pods)
	if later.Status().State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Error("the pod that came meanwhile is not ready")
	}
}
