package cri

import (
	"context"
	"iter"
	"log/slog"
	"slices"

	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The metrics are those that cAdvisor gave the kubelet, with its names and labels,
// so that dashboards go on working. Values are whole numbers: the CRI has no
// others.

// baseLabels are on every metric, before its own.
var baseLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

// podContainer is what cAdvisor and the kubelet call the container that stands
// for the pod.
const podContainer = "POD"

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// A metric is one name, what it says, and how its values are read out of a sample
// of a pod or a container.
type metric[S any] struct {
	name   string
	kind   runtimeapi.MetricType
	labels []string // beside baseLabels
	help   string
	read   func(s *S) []reading
}

// A reading is one value with the values of the metric's own labels.
type reading struct {
	value  uint64
	labels []string
}

func one(n uint64) []reading { return []reading{{value: n}} }

// ListMetricDescriptors says which metrics there are. The kubelet asks once.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: append(descriptors(containerMetrics), descriptors(podMetrics)...)}, nil
}

func descriptors[S any](metrics []metric[S]) []*runtimeapi.MetricDescriptor {
	var out []*runtimeapi.MetricDescriptor
	for _, m := range metrics {
		out = append(out, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: slices.Concat(baseLabels, m.labels)})
	}
	return out
}

// ListPodSandboxMetrics reads all metrics of all pods that are up.
func (s *Server) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: slices.Collect(s.podMetrics())}, nil
}

// StreamPodSandboxMetrics does the same in messages of bounded size.
func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	return sendBatches(s.podMetrics(), func(batch []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: batch})
	})
}

func (s *Server) podMetrics() iter.Seq[*runtimeapi.PodSandboxMetrics] {
	return func(yield func(*runtimeapi.PodSandboxMetrics) bool) {
		s.eachPodUse((*sandbox.Pod).Ready, func(u sandbox.PodUse) bool { return yield(s.metricsOf(&u)) })
	}
}

func (s *Server) metricsOf(u *sandbox.PodUse) *runtimeapi.PodSandboxMetrics {
	out := &runtimeapi.PodSandboxMetrics{PodSandboxId: u.ID}
	meta := u.Config.Of.GetMetadata()
	if n := u.Network; n != nil {
		base := []string{u.CgroupParent, u.ID, "", podContainer, meta.GetName(), meta.GetNamespace()}
		out.Metrics = readAll(podMetrics, u, base, n.At.UnixNano())
	}
	for _, c := range u.Containers {
		if c.Cgroup == nil || c.State() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		detail, err := s.Sandboxes.ContainerDetail(c)
		if err != nil {
			slog.Warn("container is left out of the metrics", "err", err)
			continue
		}
		base := []string{u.CgroupParent + "/" + c.ID, c.ID, imageName(c.Container), c.Config.Of.GetMetadata().GetName(), meta.GetName(), meta.GetNamespace()}
		out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: c.ID,
			Metrics: readAll(containerMetrics, &detail, base, c.Cgroup.Time.UnixNano())})
	}
	return out
}

// imageName is the image as the user wrote it, where the kubelet says so.
func imageName(c *sandbox.Container) string {
	if name := c.Config.Of.GetImage().GetUserSpecifiedImage(); name != "" {
		return name
	}
	return c.Image.Name
}

func readAll[S any](metrics []metric[S], sample *S, base []string, at int64) []*runtimeapi.Metric {
	var out []*runtimeapi.Metric
	for _, m := range metrics {
		for _, r := range m.read(sample) {
			out = append(out, &runtimeapi.Metric{Name: m.name, Timestamp: at, MetricType: m.kind,
				LabelValues: slices.Concat(base, r.labels), Value: value(r.value)})
		}
	}
	return out
}
