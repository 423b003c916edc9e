package stats_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// wantMetrics are the names that upstream critest asks for, and those that the
// kubelet's container_metrics_test asks for beside them.
const wantMetrics = `blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes
fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen
memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap
memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total
network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_dropped_total
network_transmit_packets_total oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total
processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes spec_memory_reservation_limit_bytes
spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft
fs_io_current fs_io_time_seconds_total fs_io_time_weighted_seconds_total fs_read_seconds_total fs_write_seconds_total fs_reads_merged_total
fs_writes_merged_total fs_sector_reads_total fs_sector_writes_total memory_events_high_total memory_events_max_total`

// notEverywhere are those that a host without the facility does not have.
var notEverywhere = []string{"hugetlb_", "pressure_", "blkio_"}

func descriptors(t *testing.T, i *harness.Instance) map[string]*runtimeapi.MetricDescriptor {
	t.Helper()
	resp, err := i.Runtime.ListMetricDescriptors(i.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*runtimeapi.MetricDescriptor{}
	for _, d := range resp.Descriptors {
		if out[d.Name] != nil || d.Help == "" {
			t.Errorf("%s is there twice or has no help", d.Name)
		}
		out[d.Name] = d
	}
	return out
}

func podMetrics(t *testing.T, i *harness.Instance) map[string]*runtimeapi.PodSandboxMetrics {
	t.Helper()
	resp, err := i.Runtime.ListPodSandboxMetrics(i.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*runtimeapi.PodSandboxMetrics{}
	for _, p := range resp.PodMetrics {
		out[p.PodSandboxId] = p
	}
	return out
}

func TestMetricDescriptors(t *testing.T) {
	i := harness.New(t)
	got := descriptors(t, i)
	var want []string
	for _, name := range strings.Fields(wantMetrics) {
		want = append(want, "container_"+name)
	}
	if len(want) != 67 {
		t.Fatalf("the test wants %d names", len(want))
	}
	same(t, "names", slices.Sorted(maps.Keys(got)), want)
	for name, d := range got {
		for _, label := range []string{"id", "name", "image", "container", "pod", "namespace"} {
			if !slices.Contains(d.LabelKeys, label) {
				t.Errorf("%s has labels %v", name, d.LabelKeys)
			}
		}
	}
}

// TestMetrics: a container has a value of every metric, with a label value for
// each key, no series twice, and the values are what is known of it.
func TestMetrics(t *testing.T) {
	i := harness.New(t)
	known := descriptors(t, i)
	pod := i.RunPod()
	started := time.Now()
	c := pod.Run("web", i.Image(probe), run("serve-http", "8080", "hello"), func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	})
	c.WaitOutput("ready")
	idle := pod.Run("idle", i.Image(probe), sleeper)
	pod.Create("created", i.Image(probe), sleeper)
	i.Wait("the first walk", func() bool { return stats(t, c).WritableLayer != nil && stats(t, idle).WritableLayer != nil })
	got := podMetrics(t, i)[pod.ID]
	if len(got.GetContainerMetrics()) != 2 {
		t.Fatalf("%d containers run, wanted 2", len(got.GetContainerMetrics()))
	}
	values := map[string]uint64{}
	series := map[string]bool{}
	take := func(id string, m *runtimeapi.Metric) {
		d := known[m.Name]
		if d == nil || len(m.LabelValues) != len(d.LabelKeys) {
			t.Fatalf("%s has values %q for labels %v", m.Name, m.LabelValues, d.GetLabelKeys())
		}
		key := m.Name
		for n, label := range d.LabelKeys {
			switch label {
			case "pod":
				equal(t, label, m.LabelValues[n], pod.Config.Metadata.Name)
			case "namespace":
				equal(t, label, m.LabelValues[n], "default")
			case "name":
				equal(t, label, m.LabelValues[n], id)
			case "device", "id", "container", "image", "major", "minor":
			default:
				key += " " + m.LabelValues[n]
			}
		}
		if all := m.Name + strings.Join(m.LabelValues, "\x00"); series[all] {
			t.Errorf("%s %q is there twice", m.Name, m.LabelValues)
		} else {
			series[all] = true
		}
		if id != idle.ID {
			values[key] += m.Value.GetValue()
			values[m.Name] += 0
		}
		if m.Timestamp < started.UnixNano() {
			t.Errorf("%s was read at %d", m.Name, m.Timestamp)
		}
	}
	for _, m := range got.Metrics {
		take(pod.ID, m)
	}
	for _, ctr := range got.ContainerMetrics {
		for _, m := range ctr.Metrics {
			take(ctr.ContainerId, m)
		}
	}
	for name := range known {
		short := strings.TrimPrefix(name, "container_")
		if _, ok := values[name]; !ok && !slices.ContainsFunc(notEverywhere, func(p string) bool { return strings.HasPrefix(short, p) }) {
			t.Errorf("%s has no value", name)
		}
	}
	now := uint64(time.Now().Unix())
	for key, want := range map[string][2]uint64{
		"spec_cpu_quota": {50000, 50000}, "spec_cpu_period": {100000, 100000}, "spec_cpu_shares": {512, 512},
		"spec_memory_limit_bytes": {64 << 20, 64 << 20}, "processes": {1, 1}, "threads": {2, 100},
		"start_time_seconds": {uint64(started.Unix()), now}, "last_seen": {uint64(started.Unix()), now},
		"memory_working_set_bytes": {100 << 10, 64 << 20}, "memory_max_usage_bytes": {100 << 10, 64 << 20},
		"memory_failures_total pgfault hierarchy": {100, 1 << 30}, "memory_failures_total pgfault container": {100, 1 << 30},
		"sockets": {1, 20}, "ulimits_soft max_open_files": {1, 1 << 40}, "fs_limit_bytes": {1 << 20, 1 << 60},
		"network_transmit_bytes_total eth0": {1, 1 << 30}, "oom_events_total": {0, 0},
	} {
		v, ok := values["container_"+key]
		if !ok {
			t.Errorf("there is no %s", key)
		}
		between(t, key, v, want[0], want[1])
	}
	files, err := filepath.Glob("/proc/" + itoa(c.PID()) + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	between(t, "files", values["container_file_descriptors"], uint64(len(files)), uint64(len(files)))
	streamed := all(t, (*runtimeapi.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics, func() (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxMetricsResponse], error) {
		return i.Runtime.StreamPodSandboxMetrics(i.Context(), &runtimeapi.StreamPodSandboxMetricsRequest{})
	})
	if len(streamed) != 1 || len(streamed[0].ContainerMetrics) != 2 || len(streamed[0].Metrics) != len(got.Metrics) {
		t.Errorf("streamed: %v", streamed)
	}
	pod.Stop()
	if left := podMetrics(t, i); len(left) != 0 {
		t.Errorf("metrics of a stopped pod: %v", left)
	}
}
