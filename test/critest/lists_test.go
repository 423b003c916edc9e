package critest_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamed reads a stream to its end and counts each id once.
func streamed[R, I any](t *testing.T, stream grpc.ServerStreamingClient[R], err error, items func(*R) []I, id func(I) string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for err == nil {
		var r *R
		if r, err = stream.Recv(); err == nil {
			for _, item := range items(r) {
				seen[id(item)]++
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return seen
}

func only(t *testing.T, what string, got map[string]int, id string) {
	t.Helper()
	equal(t, what, fmt.Sprint(got), fmt.Sprint(map[string]int{id: 1}))
}

// TestStreams: each item once, then the end of the stream; filters as in lists.
func TestStreams(t *testing.T) {
	clause(t, "StreamPodSandboxes returns a stream of PodSandboxes.")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Labels = map[string]string{"mark": n.dir} })
	c := p.run()
	n.pod().run() // which no filter lets through
	pods, err := n.runtime.StreamPodSandboxes(n.ctx(), &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	only(t, "pods", streamed(t, pods, err, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes, (*runtimeapi.PodSandbox).GetId), p.id)
	containers, err := n.runtime.StreamContainers(n.ctx(), &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	only(t, "containers", streamed(t, containers, err, (*runtimeapi.StreamContainersResponse).GetContainers, (*runtimeapi.Container).GetId), c.id)
}

// TestImageStream: the same for images.
func TestImageStream(t *testing.T) {
	clause(t, "StreamImages returns a stream of images.")
	n := newNode(t)
	n.pull(n.registry().push("other", n.small("file"))) // which no filter lets through
	images, err := n.images.StreamImages(n.ctx(), &runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: n.image}}})
	only(t, "images", streamed(t, images, err, (*runtimeapi.StreamImagesResponse).GetImages, (*runtimeapi.Image).GetId), n.imageID)
}

// TestStatsStreams: the same for the streams of numbers.
func TestStatsStreams(t *testing.T) {
	clause(t, "StreamContainerStats returns a stream of container stats.")
	n := newNode(t)
	label := map[string]string{"mark": n.podConfig().Metadata.Uid}
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Labels = label })
	c := p.run()
	n.pod().run()
	ofContainer := func(s *runtimeapi.ContainerStats) string { return s.GetAttributes().GetId() }
	containers, err := n.runtime.StreamContainerStats(n.ctx(), &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	got := streamed(t, containers, err, (*runtimeapi.StreamContainerStatsResponse).GetContainerStats, ofContainer)
	equal(t, "stats of containers", fmt.Sprint(got), fmt.Sprint(map[string]int{c.id: 1}))
	list, err := n.runtime.ListContainerStats(n.ctx(), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: c.id}})
	if err != nil || len(list.Stats) != 1 || ofContainer(list.Stats[0]) != c.id {
		t.Errorf("listed: %v, %v", list, err)
	}
	pods, err := n.runtime.StreamPodSandboxStats(n.ctx(), &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{LabelSelector: label}})
	got = streamed(t, pods, err, (*runtimeapi.StreamPodSandboxStatsResponse).GetPodSandboxStats,
		func(s *runtimeapi.PodSandboxStats) string { return s.GetAttributes().GetId() })
	equal(t, "stats of pods", fmt.Sprint(got), fmt.Sprint(map[string]int{p.id: 1}))
	metrics, err := n.runtime.StreamPodSandboxMetrics(n.ctx(), &runtimeapi.StreamPodSandboxMetricsRequest{})
	got = streamed(t, metrics, err, (*runtimeapi.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics, (*runtimeapi.PodSandboxMetrics).GetPodSandboxId)
	equal(t, "metrics of the pod", got[p.id], 1)
}
