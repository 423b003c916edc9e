package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os/signal"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"golang.org/x/sys/unix"
)

// loaded is how the configuration came to be what it is. It is never changed,
// only replaced.
type loaded struct {
	config *config.Config // in effect
	Files  []string       `json:"files"`
	At     time.Time      `json:"at"`
	// Result of the last time it was read: "OK", or what was wrong; then all
	// settings are those of before.
	Result string `json:"result"`
	// NeedRestart are the settings that were changed and are not in effect yet.
	NeedRestart []string          `json:"needRestart,omitempty"`
	Values      map[string]string `json:"values"`
}

// began remembers what serve was started with. From here on a SIGHUP does not
// end the daemon.
func (d *daemon) began() {
	signal.Notify(d.hangups, unix.SIGHUP)
	d.loaded.Store(&loaded{config: d.config, Files: d.files, At: time.Now(), Result: "OK", Values: d.config.Values()})
}

// reloadOnSignal reads the configuration anew at each SIGHUP until ctx ends.
func (d *daemon) reloadOnSignal(ctx context.Context) {
	for {
		select {
		case <-d.hangups:
			d.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload puts a changed configuration into effect, all of it or nothing.
func (d *daemon) reload() {
	now := *d.loaded.Load()
	now.At = time.Now()
	c, files, err := config.Load(d.source)
	if err == nil {
		err = d.apply(c)
	}
	if err != nil {
		now.Result = err.Error()
		d.loaded.Store(&now)
		slog.Error("configuration stays as it was", "err", err)
		return
	}
	// What needs a restart is judged against what the daemon began with.
	needs := d.config.NeedRestart(c)
	d.loaded.Store(&loaded{config: c, Files: files, At: now.At, Result: "OK", NeedRestart: needs, Values: c.Values()})
	slog.Info("configuration reloaded", "files", files, "need_restart", needs)
}

// apply hands each part what it takes while it runs. Only the first can refuse.
func (d *daemon) apply(c *config.Config) error {
	if err := d.images.Configure(imageConfig(d.root, c.Image)); err != nil {
		return err
	}
	d.sandboxes.SetPolicy(policy(c.Container))
	return setLog(c.Log)
}

// configuration is what Status tells of it.
func (d *daemon) configuration() string {
	b, err := json.Marshal(d.loaded.Load())
	if err != nil {
		return err.Error()
	}
	return string(b)
}
