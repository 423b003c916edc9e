package upstream

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/critest/images"
	"github.com/cri-box/cri-box/test/critest/report"
	"github.com/cri-box/cri-box/test/harness"
)

// releases is where the binary comes from.
const releases = "https://github.com/kubernetes-sigs/cri-tools/releases"

// runTimeout bounds one run of the whole suite.
const runTimeout = 25 * time.Minute

func TestMain(m *testing.M) { harness.Main(m) }

// TestSPDY runs critest as the kubelet of old streams.
func TestSPDY(t *testing.T) { run(t) }

// TestWebSocket runs critest with every stream over WebSocket.
func TestWebSocket(t *testing.T) {
	run(t, "-websocket-exec", "-websocket-attach", "-websocket-portforward")
}

func run(t *testing.T, flags ...string) {
	binary, list := critest(t), skips
	var i *harness.Instance
	if os.Getenv("IMAGES") == "upstream" {
		i = harness.New(t, proxied)
	} else {
		i = harness.New(t, mirrored)
		for _, n := range images.All(t) {
			i.Registry().Push(n.Repository, n.Tag, n.Image)
		}
		if digest := images.DigestName(); !contains(t, binary, digest) {
			t.Logf("%s does not name %s: its spec is left out", binary, digest)
			list = append([]report.Skip{digestSkip}, skips...)
			flags = append(flags, "-ginkgo.skip="+regexp.QuoteMeta(digestSkip.Spec))
		}
	}
	judge(t, start(t, i, binary, flags), list)
}

// critest finds the binary.
func critest(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("CRITEST"), "critest"))
	if err != nil {
		t.Fatalf("There is no critest: %v. Its binary is part of each release at %s; name it in CRITEST or put it on PATH.", err, releases)
	}
	return path
}

func contains(t *testing.T, file, text string) bool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(data, []byte(text))
}

// start runs critest in the node's namespace, in random order.
func start(t *testing.T, i *harness.Instance, binary string, flags []string) report.Result {
	t.Helper()
	out := t.ArtifactDir()
	path := filepath.Join(out, "report.json")
	seed := cmp.Or(os.Getenv("SEED"), strconv.FormatInt(time.Now().Unix(), 10))
	args := append([]string{"-runtime-endpoint=unix://" + i.Socket(), "-config=" + os.DevNull, "-ginkgo.seed=" + seed,
		"-ginkgo.randomize-all", "-ginkgo.no-color", "-ginkgo.json-report=" + path}, flags...)
	if focus := os.Getenv("FOCUS"); focus != "" {
		args = append(args, "-ginkgo.focus="+focus)
	}
	log, err := os.Create(filepath.Join(out, "critest.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	cmd.Dir, cmd.Stdout, cmd.Stderr = out, log, log
	t.Logf("%v > %s", cmd, log.Name())
	before := segments(t)
	defer removeSegments(t, before)
	if err := i.Node.Do(cmd.Start); err != nil {
		t.Fatalf("cannot start critest: %v", err)
	}
	ended := cmd.Wait() // not zero where a spec failed: the report says which
	r, err := report.Read(path)
	if err != nil {
		t.Fatalf("critest ended with %v: %v\n%s", ended, err, tail(log.Name()))
	}
	if ended != nil && len(r.Failed) == 0 {
		t.Errorf("critest ended with %v, though no spec failed\n%s", ended, tail(log.Name()))
	}
	return r
}

func tail(path string) string {
	data, _ := os.ReadFile(path)
	return string(data[max(0, len(data)-4000):])
}

// judge prints what a run did and fails for what is not as it should be.
func judge(t *testing.T, r report.Result, list []report.Skip) {
	t.Helper()
	for _, s := range r.Failed {
		t.Errorf("FAILED  %s\n%s", s.Name(), s.Why())
	}
	for _, s := range r.Skipped {
		if at := report.Covering(s, list); at >= 0 && os.Getenv("FOCUS") == "" {
			t.Logf("skipped %s: %s", s.Name(), list[at].Reason)
		}
	}
	if os.Getenv("FOCUS") == "" {
		for _, problem := range report.Unexpected(r.Skipped, list) {
			t.Error(problem)
		}
	}
	t.Logf("%d passed, %d failed, %d skipped", len(r.Passed), len(r.Failed), len(r.Skipped))
}
