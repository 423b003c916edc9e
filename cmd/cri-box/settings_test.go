package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
)

// other is for each setting a value that is not its default.
var other = map[string]string{
	"listen": "/x/sock", "root": "/x", "state": "/y",
	"log.level": "warn", "log.format": "json",
	"image.certs_dirs": "['/x']", "image.verifier_dir": "/x", "image.max_concurrent_layers": "9", "image.pinned": "['x']", "image.stall_timeout": "9s",
	"image.limits.entries": "9", "image.limits.bytes": "9MiB", "image.limits.depth": "9", "image.limits.path_length": "99",
	"metrics.address": "127.0.0.1:9", "tracing.endpoint": "127.0.0.1:9", "tracing.sampling_per_million": "9",
	"network.mode": "cni", "network.ipv4": "10.9.0.0/16", "network.ipv6": "fd09::/64", "network.pod_cidr": "kubelet",
	"network.no_masquerade": "['10.9.0.0/16']", "network.mtu": "1400",
	"network.cni.conf_dir": "/x", "network.cni.bin_dirs": "['/x']",
	"cgroup.driver": "systemd", "container.path": "/x", "container.capabilities": "['KILL']", "container.ulimits": "['core=0']", "container.pids_limit": "9",
	"container.shm_size": "9MiB", "container.missing_bind_source": "create", "container.max_log_line": "9KiB",
}

// TestEverySettingHasAnEffect: what the parts are opened with differs.
func TestEverySettingHasAnEffect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	opened := func(flags ...string) string {
		s := settings{source: config.Source{Path: file, Flags: flags}}
		if err := s.load(); err != nil {
			t.Fatal(err)
		}
		// As serve.go has it, part by part.
		return fmt.Sprintf("%v %v %v %+v %+v %+v %+v %v %v %v %v", s.listen, s.root, s.state, s.config.Log, imageConfig(s.root, s.config.Image),
			s.networkConfig(), policy(s.config.Container), s.config.Container.MaxLogLine, s.config.Metrics, s.config.Cgroup, s.config.Tracing)
	}
	usual := opened()
	for name := range config.New().Values() {
		if other[name] == "" {
			t.Errorf("%s: this test has no value for it", name)
		} else if opened(name+"="+other[name]) == usual {
			t.Errorf("%s has no effect", name)
		}
	}
}

// TestLogReload: a logger that a part took when it was opened speaks as the
// configuration says now.
func TestLogReload(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	usual, old := os.Stderr, slog.Default()
	defer func() { os.Stderr = usual; slog.SetDefault(old) }()
	os.Stderr = write
	var taken *slog.Logger
	for _, c := range []config.Log{{Level: "info", Format: "text"}, {Level: "warn", Format: "json"}} {
		if err := setLog(c); err != nil {
			t.Fatal(err)
		}
		if taken == nil {
			taken = slog.Default()
		}
		taken.Info("told", "in", c.Format)
		taken.Warn("warned", "in", c.Format)
	}
	write.Close()
	out, err := io.ReadAll(read)
	lines := strings.Split(string(out), "\n")
	if err != nil || len(lines) != 4 || !strings.HasSuffix(lines[0], "msg=told in=text") || !strings.HasSuffix(lines[1], "msg=warned in=text") ||
		!strings.HasSuffix(lines[2], `"msg":"warned","in":"json"}`) {
		t.Errorf("%v, it says\n%s", err, out)
	}
}
