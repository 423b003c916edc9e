package metrics

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// The names, all of which begin with cri_box_.
const (
	callSeconds = "cri_box_call_duration_seconds"
	callsFlying = "cri_box_calls_in_flight"
)

// An entry is a metric: what a person has to know to use it.
type entry struct {
	name   string
	kind   prometheus.ValueType // 0 for the histogram and its gauge, which are made elsewhere
	labels []string
	help   string
}

// metrics lists all of our own. Times are in seconds, sizes in bytes.
var metrics = []entry{
	{callSeconds, 0, []string{"method", "code"}, "Duration of CRI calls, a histogram, by method and gRPC code."},
	{callsFlying, 0, []string{"method"}, "CRI calls that are being answered."},
	{"cri_box_pods", prometheus.GaugeValue, []string{"state"}, "Pods: ready or not_ready."},
	{"cri_box_containers", prometheus.GaugeValue, []string{"state"}, "Containers: created, running or exited."},
	{"cri_box_stage_objects", prometheus.GaugeValue, []string{"object", "stage"}, "Pods and containers at this stage of going up or down, and pulls at theirs."},
	{"cri_box_stage_age_seconds", prometheus.GaugeValue, []string{"object", "stage"}, "How long the one that is longest at this stage has been there. `cri-box why` names it."},
	{"cri_box_events_lost_total", prometheus.CounterValue, nil, "Container events that slow readers did not get."},
	{"cri_box_recovering", prometheus.GaugeValue, nil, "1 while the daemon still reads its records."},
	{"cri_box_set_aside", prometheus.GaugeValue, nil, "Records that could not be used and wait in a quarantine for somebody to look at them."},
	{"cri_box_leaks_found_total", prometheus.CounterValue, nil, "Things on the host that were ours by name, belonged to no pod and were removed."},
	{"cri_box_network_ready", prometheus.GaugeValue, nil, "1 when a pod can get a network."},
	{"cri_box_network_detaches_pending", prometheus.GaugeValue, nil, "CNI DELs that failed and are tried again."},
	{"cri_box_keeper_starts_total", prometheus.CounterValue, nil, "Keepers that this daemon had to start."},
	{"cri_box_keeper_items", prometheus.GaugeValue, []string{"kind"}, "What is in the keeper's custody."},
	{"cri_box_keeper_resident_bytes", prometheus.GaugeValue, nil, "Resident memory of the keeper."},
	{"cri_box_images", prometheus.GaugeValue, nil, "Images on the node."},
	{"cri_box_image_bytes", prometheus.GaugeValue, nil, "Disk that images take."},
	{"cri_box_pulls_in_progress", prometheus.GaugeValue, nil, "Pulls that are under way."},
	{"cri_box_pull_bytes", prometheus.GaugeValue, []string{"part"}, "Bytes of the pulls under way: received, and total."},
	{"cri_box_pulls_total", prometheus.CounterValue, []string{"result"}, "Pulls that ended: ok or failed."},
	{"cri_box_pulled_bytes_total", prometheus.CounterValue, nil, "Bytes that were received from registries."},
}

func find(name string) entry {
	i := slices.IndexFunc(metrics, func(e entry) bool { return e.name == name })
	if i < 0 {
		panic(fmt.Sprintf("metric %q is not in the table", name))
	}
	return metrics[i]
}

func help(name string) string { return find(name).help }

// Table is all of them as Markdown, for docs/metrics.md.
func Table() string {
	var b strings.Builder
	b.WriteString("| metric | labels | meaning |\n|---|---|---|\n")
	for _, e := range metrics {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.name, strings.Join(e.labels, ", "), e.help)
	}
	return b.String()
}
