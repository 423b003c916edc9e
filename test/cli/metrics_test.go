package cli_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// get asks the daemon's own socket.
func get(t *testing.T, i *harness.Instance, path string) string {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(i.State, "admin.sock"))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	return body(t, client, "http://cri-box"+path)
}

func body(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v: %s", url, resp.Status, err, text)
	}
	return string(text)
}

// value is a sample's; the name has its labels, as Prometheus prints them.
func value(t *testing.T, text, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		t.Errorf("no metric %s", name)
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Error(err)
	}
	return v
}

// TestMetrics: what a scrape says is what was done.
func TestMetrics(t *testing.T) {
	i := harness.New(t, harness.Args("--set", "metrics.address=127.0.0.1:9437"))
	pod := i.RunPod()
	pod.Run("runs", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	ended := pod.Run("ends", i.Image("probe"), []string{"/bin/workload", "exit", "0"})
	ended.WaitExit()
	if _, err := i.Runtime.ContainerStatus(i.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: strings.Repeat("0", 64)}); err == nil {
		t.Error("a container that never was has a status")
	}
	text := body(t, i.Node.Client(), "http://127.0.0.1:9437/metrics")
	for name, want := range map[string]float64{
		`cri_box_pods{state="ready"}`:         1,
		`cri_box_containers{state="running"}`: 1,
		`cri_box_containers{state="exited"}`:  1,
		`cri_box_network_ready`:               1,
		`cri_box_keeper_starts_total`:         1,
		`cri_box_pulls_total{result="ok"}`:    1,
		`cri_box_images`:                      1,
		`cri_box_call_duration_seconds_count{code="OK",method="StartContainer"}`:        2,
		`cri_box_call_duration_seconds_count{code="NotFound",method="ContainerStatus"}`: 1,
		`cri_box_recovering`:               0,
		`cri_box_keeper_items{kind="pod"}`: 1,
	} {
		if got := value(t, text, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := value(t, text, "cri_box_pulled_bytes_total"); got < 1<<20 {
		t.Errorf("%v bytes were pulled", got)
	}
	if got := value(t, text, "cri_box_keeper_resident_bytes"); got < 1<<20 || got > 64<<20 {
		t.Errorf("the keeper has %v bytes", got)
	}
	if again := get(t, i, "/metrics"); value(t, again, `cri_box_pods{state="ready"}`) != 1 {
		t.Error("the daemon's own socket has other metrics")
	}
}

// TestStacksAndProfiles: SIGUSR1 writes what every goroutine does; profiles are
// had on the daemon's own socket and nowhere else.
func TestStacksAndProfiles(t *testing.T) {
	i := harness.New(t, harness.Args("--set", "metrics.address=127.0.0.1:9437"))
	syscall.Kill(i.PID(), syscall.SIGUSR1)
	path := filepath.Join(i.State, "stacks.txt")
	i.Wait("the stacks", func() bool {
		text, _ := os.ReadFile(path)
		return strings.Contains(string(text), "stacksOnSignal")
	})
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode of %s: %v, %v", path, st.Mode(), err)
	}
	os.Remove(path)
	if text := get(t, i, "/debug/pprof/goroutine?debug=1"); !strings.Contains(text, "goroutine profile") {
		t.Errorf("profile: %.200s", text)
	}
	resp, err := i.Node.Client().Get("http://127.0.0.1:9437/debug/pprof/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("profiles for everybody: %s", resp.Status)
	}
}
