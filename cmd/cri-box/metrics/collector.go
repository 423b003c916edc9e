package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are where a scrape reads. Each answers from memory, waiting for nothing.
type Sources struct {
	// Objects are all pods and containers, and the pulls under way.
	Objects func() []Object
	// Counts are single numbers, by the name of their metric.
	Counts func() map[string]float64
	// Kept counts what is in custody, by kind.
	Kept func() map[string]int
	// Pulls are those under way, and what became of the others.
	Pulls func() Pulls
}

// An Object is a pod or container, or the pull of an image, which has a stage only.
// Stage is "" when a pod or container is not on its way up or down.
type Object struct {
	Kind, State string
	Stage       string
	Since       time.Time
}

// Pulls is what the image store counts. Sizes are bytes.
type Pulls struct {
	Running         int
	Received, Total int64 // of those that run
	OK, Failed      uint64
	Bytes           uint64 // received since the start
}

// A collector reads the sources at a scrape.
type collector struct{ Sources }

// Describe sends nothing: which stages there are is known when one is reached.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, value float64, labels ...string) {
		e := find(name)
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, e.help, e.labels, nil), e.kind, value, labels...)
	}
	putObjects(c.Objects(), put)
	for name, value := range c.Counts() {
		put(name, value)
	}
	for kind, n := range c.Kept() {
		put("cri_box_keeper_items", float64(n), kind)
	}
	p := c.Pulls()
	put("cri_box_pulls_in_progress", float64(p.Running))
	put("cri_box_pull_bytes", float64(p.Received), "received")
	put("cri_box_pull_bytes", float64(p.Total), "total")
	put("cri_box_pulls_total", float64(p.OK), "ok")
	put("cri_box_pulls_total", float64(p.Failed), "failed")
	put("cri_box_pulled_bytes_total", float64(p.Bytes))
}

type place struct{ object, stage string }

func putObjects(list []Object, put func(name string, value float64, labels ...string)) {
	states := map[place]int{{"pod", "ready"}: 0, {"pod", "not_ready"}: 0,
		{"container", "created"}: 0, {"container", "running"}: 0, {"container", "exited"}: 0}
	count, oldest := map[place]int{}, map[place]time.Duration{}
	for _, o := range list {
		if o.State != "" {
			states[place{o.Kind, o.State}]++
		}
		if at := (place{o.Kind, o.Stage}); o.Stage != "" {
			count[at]++
			oldest[at] = max(oldest[at], time.Since(o.Since))
		}
	}
	for at, n := range states {
		put("cri_box_"+at.object+"s", float64(n), at.stage)
	}
	for at, n := range count {
		put("cri_box_stage_objects", float64(n), at.object, at.stage)
		put("cri_box_stage_age_seconds", oldest[at].Seconds(), at.object, at.stage)
	}
}
