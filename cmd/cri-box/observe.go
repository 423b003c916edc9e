package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/metrics"
	"github.com/cri-box/cri-box/sandbox"
	"golang.org/x/sys/unix"
)

// sources is where a scrape reads the daemon: memory only, but for the keeper's
// statm and the names in the quarantines.
func (d *daemon) sources() metrics.Sources {
	return metrics.Sources{Objects: d.objects, Counts: d.counts, Kept: d.kept, Pulls: d.pulls}
}

func (d *daemon) objects() (list []metrics.Object) {
	for _, p := range d.sandboxes.Accounts() {
		state := "not_ready"
		if p.Ready {
			state = "ready"
		}
		list = append(list, object("pod", state, p.Doing))
		for _, c := range p.Containers {
			list = append(list, object("container", c.State, c.Doing))
		}
	}
	for _, p := range d.images.Doing() {
		list = append(list, metrics.Object{Kind: "pull", Stage: p.Stage, Since: p.Since})
	}
	return list
}

func object(kind, state string, at *sandbox.Stage) metrics.Object {
	if at == nil {
		return metrics.Object{Kind: kind, State: state}
	}
	return metrics.Object{Kind: kind, State: state, Stage: at.Name, Since: at.Since}
}

func (d *daemon) counts() map[string]float64 {
	bytes, _ := d.images.Fs()
	return map[string]float64{
		"cri_box_events_lost_total":        float64(d.sandboxes.EventsLost()),
		"cri_box_leaks_found_total":        float64(d.sandboxes.Leaks()),
		"cri_box_recovering":               truth(!d.recovered.Load()),
		"cri_box_set_aside":                float64(len(d.asides())),
		"cri_box_network_ready":            truth(d.network.Ready() == nil),
		"cri_box_network_detaches_pending": float64(d.network.Pending()),
		"cri_box_keeper_starts_total":      float64(d.keeper.Starts()),
		"cri_box_keeper_resident_bytes":    resident(d.keeper.PID()),
		"cri_box_images":                   float64(len(d.images.List())),
		"cri_box_image_bytes":              float64(bytes),
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// resident is a process's resident memory in bytes, 0 if it is gone (proc(5), statm).
func resident(pid int) float64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(string(fields[1]), 64)
	return pages * float64(os.Getpagesize())
}

func (d *daemon) kept() map[string]int {
	kinds := map[string]int{}
	for _, k := range d.keeper.Items() {
		kinds[string(k.Kind)]++
	}
	return kinds
}

func (d *daemon) pulls() metrics.Pulls {
	return metrics.Pulls(d.images.Traffic())
}

// startMetrics serves what Prometheus reads at the address of the configuration,
// until ctx ends; without one, /metrics is on the daemon's own socket only.
func (d *daemon) startMetrics(ctx context.Context) error {
	address := d.config.Metrics.Address
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot serve metrics ([metrics] address = %q): %w", address, err)
	}
	server := metricsServer(d.metrics.Handler())
	context.AfterFunc(ctx, func() { server.Close() })
	go server.Serve(listener)
	slog.Info("metrics", "address", listener.Addr().String())
	return nil
}

// metricsServer serves whoever reaches its address: nobody holds a connection by
// leaving a request half sent, an answer unread, or by being silent.
func metricsServer(metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
}

// handleProfiles serves net/http/pprof: on the daemon's own socket only, since a
// profile costs time and shows memory.
func handleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// maxStacks bounds what SIGUSR1 writes, in bytes.
const maxStacks = 16 << 20

// stacksFile takes the stacks of all goroutines, in the state directory.
const stacksFile = "stacks.txt"

// stacksOnSignal has all goroutines' stacks written at each SIGUSR1 until ctx
// ends: what a daemon is waiting for, also when it answers nobody.
func (d *daemon) stacksOnSignal(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1) // before anybody can know of us
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				if err := d.writeStacks(); err != nil {
					slog.Error("cannot write stacks", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (d *daemon) writeStacks() error {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) && n < maxStacks {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	path := filepath.Join(d.state, stacksFile)
	if err := os.WriteFile(path, buf[:n], 0o600); err != nil {
		return err
	}
	slog.Info("stacks written", "path", path, "goroutines", runtime.NumGoroutine())
	return nil
}
