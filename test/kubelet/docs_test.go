package kubelet_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// documented is the block of docs/kubernetes.md with that line in it.
func documented(t *testing.T, line string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(harness.Tree(), "docs/kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(string(page), -1) {
		block = regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
		if strings.Contains(block, line+"\n") {
			return block
		}
	}
	t.Fatalf("the page shows no block with %q", line)
	return ""
}

// TestDocumentedConfiguration: the kubelet reads, strictly, what the page gives it,
// judges it, and goes where it says for the runtime; there is none.
func TestDocumentedConfiguration(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "nobody.sock")
	text := documented(t, "kind: KubeletConfiguration")
	if !strings.Contains(text, "unix:///run/cri-box/cri-box.sock\n") {
		t.Errorf("it names another socket:\n%s", text)
	}
	try := func(text string) string {
		path := filepath.Join(dir, "kubelet.yaml")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/run/cri-box/cri-box.sock", there)), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, kubeletBinary(t), "--config", path, "--root-dir", dir, "--cert-dir", dir).CombinedOutput()
		if err == nil || ctx.Err() != nil {
			t.Fatalf("it runs without a runtime: %v\n%s", err, out)
		}
		return string(out)
	}
	const wrong = "strict decoding failed" // it goes on without what it does not know
	if said := try(text); !strings.Contains(said, there) || !strings.Contains(said, "validate CRI v1 runtime API") || strings.Contains(said, wrong) {
		t.Errorf("the kubelet does not come as far as the runtime, or does not know all of it:\n%s", said)
	}
	if said := try(text + "staticPodPaths: /etc/kubernetes/manifests\n"); !strings.Contains(said, wrong) || !strings.Contains(said, "staticPodPaths") {
		t.Errorf("the kubelet does not see what is wrong:\n%s", said)
	}
}
