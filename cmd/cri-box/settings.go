package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/cri-box/cri-box/network/cni"
	"github.com/cri-box/cri-box/network/mode"
	"github.com/cri-box/cri-box/network/routed"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/snapshot"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// settings are what the daemon began with. What SIGHUP changes is in reload.go.
type settings struct {
	source              config.Source
	files               []string // that were read
	config              *config.Config
	listen, root, state string
	wrong               error // why config is not what the files say
}

// flag takes one flag of the command line. Paths may be relative there.
func (s *settings) flag(key, value string, path bool) error {
	if value == "" {
		return nil
	}
	if path {
		abs, err := filepath.Abs(value)
		if err != nil {
			return fmt.Errorf("cannot use %s: %w", value, err)
		}
		value = abs
	}
	s.source.Flags = append(s.source.Flags, key+"="+value)
	return nil
}

// load reads the configuration that source names.
func (s *settings) load() (err error) {
	if s.config, s.files, err = config.Load(s.source); err != nil {
		return fmt.Errorf("cannot use configuration:\n%w", err)
	}
	s.listen, s.root, s.state = s.config.Socket(), filepath.Clean(s.config.Root), filepath.Clean(s.config.State)
	return nil
}

// instance prefixes the names of host objects, so that several daemons live on
// one machine without meeting.
func (s settings) instance() string {
	if s.state == config.DefaultState {
		return "cri-box"
	}
	sum := sha256.Sum256([]byte(s.state))
	return "cri-box-" + hex.EncodeToString(sum[:2])
}

// setLog sends what the daemon says to standard error, in the form that c asks for.
func setLog(c config.Log) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return fmt.Errorf("cannot log: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, options)
	if c.Format == "json" {
		handler = slog.NewJSONHandler(os.Stderr, options)
	}
	logs.inner.Store(&handler)
	slog.SetDefault(slog.New(&logs))
	return nil
}

// logs is where all loggers lead, also those that a part took when it was opened:
// a reload changes form and level for all of them.
var logs liveHandler

// liveHandler is the handler that setLog made last.
type liveHandler struct{ inner atomic.Pointer[slog.Handler] }

func (h *liveHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.inner.Load()).Enabled(ctx, level)
}

func (h *liveHandler) Handle(ctx context.Context, r slog.Record) error {
	return (*h.inner.Load()).Handle(ctx, r)
}

func (h *liveHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return (*h.inner.Load()).WithAttrs(attrs)
}

func (h *liveHandler) WithGroup(name string) slog.Handler { return (*h.inner.Load()).WithGroup(name) }

// The parts' own configurations, as the file has them.

func imageConfig(root string, c config.Image) image.Config {
	return image.Config{Root: root, CertsDirs: c.CertsDirs, VerifierDir: c.VerifierDir, MaxConcurrentLayers: c.MaxConcurrentLayers,
		Pinned: c.Pinned, UserAgent: "cri-box/" + version, StallTimeout: c.StallTimeout, Limits: snapshot.Limits{
			Entries: c.Limits.Entries, Bytes: int64(c.Limits.Bytes), Depth: c.Limits.Depth, PathLength: c.Limits.PathLength}}
}

func (s settings) networkConfig() mode.Config {
	n, dir := s.config.Network, filepath.Join(s.root, "network")
	return mode.Config{Mode: n.Mode, KubeletCIDR: n.PodCIDR == "kubelet", Dir: dir,
		Routed: routed.Config{Instance: s.instance(), StateDir: s.state, IPv4: n.IPv4, IPv6: n.IPv6, NoMasquerade: n.NoMasquerade, MTU: n.MTU},
		CNI:    cni.Config{ConfDirs: []string{n.CNI.ConfDir}, BinDirs: n.CNI.BinDirs, Dir: filepath.Join(dir, "cni")}}
}

func policy(c config.Container) sandbox.Policy {
	d := spec.Defaults{Path: c.Path, PidsLimit: c.PidsLimit}
	for _, name := range c.Capabilities {
		d.Capabilities = append(d.Capabilities, config.Capability(name))
	}
	for _, u := range c.Ulimits {
		d.Ulimits = append(d.Ulimits, specs.POSIXRlimit(u))
	}
	return sandbox.Policy{Defaults: d, MakeSources: c.MissingBindSource == "create", ShmSize: int64(c.ShmSize)}
}

// describe is the configuration for the log, in one line.
func (s settings) describe() string {
	if len(s.files) == 0 {
		return "defaults"
	}
	return strings.Join(s.files, ", ")
}
