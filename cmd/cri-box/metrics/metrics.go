// Package metrics is what Prometheus reads of the daemon. Calls are counted as
// they are answered; everything else is read from the daemon's parts at the moment
// of a scrape, so that no part knows of metrics and none keeps a second truth.
//
// A metric is one line in the table `metrics` (catalog.go) with its help; a test
// compares docs/metrics.md with that table.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is one daemon's. Its methods may be called from several goroutines.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	flying   *prometheus.GaugeVec
}

// callBuckets are the bounds of a call's duration in seconds: a list takes
// microseconds, a pull minutes.
var callBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}

// New makes the metrics of a daemon that is read through s.
func New(s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: callSeconds, Help: help(callSeconds), Buckets: callBuckets},
			[]string{"method", "code"}),
		flying: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: callsFlying, Help: help(callsFlying)}, []string{"method"}),
	}
	m.registry.MustRegister(m.calls, m.flying, &collector{s}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
