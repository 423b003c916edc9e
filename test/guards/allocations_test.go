package guards

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The most objects that serve may allocate, gRPC's own included: for a pod with
// one container, an ExecSync, the end of both, and a list of twenty containers.
var allocationBounds = map[string]float64{"up": 4000, "exec": 800, "down": 1500, "list": 200}

// TestAllocations counts what each does to the daemon's heap, which is what the
// garbage collector is paid for. Nothing is timed.
func TestAllocations(t *testing.T) {
	i := harness.New(t)
	image := i.Image("busybox")
	h := &heap{t: t, client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(i.State, "admin.sock"))
	}}}}
	warm := i.RunPod()
	warm.Run("c", image, []string{"sleep", "1000"}).MustExec("true")
	h.scrape = h.count(1, func() {})

	const n = 20
	var pods []*harness.Pod
	var containers []*harness.Container
	h.within("up", n, func() {
		for range n {
			p := i.RunPod()
			pods, containers = append(pods, p), append(containers, p.Run("c", image, []string{"sleep", "1000"}))
		}
	})
	h.within("exec", n, func() {
		for _, c := range containers {
			if r, err := c.Exec(time.Minute, "true"); err != nil || r.Code != 0 {
				t.Errorf("exec: %+v, %v", r, err)
			}
		}
	})
	// Many, for what the daemon does of itself meanwhile is divided among them.
	const lists = 20 * n
	h.within("list", lists, func() {
		for range lists {
			resp, err := i.Runtime.ListContainers(i.Context(), &runtimeapi.ListContainersRequest{})
			if err != nil || len(resp.Containers) != n+1 {
				t.Errorf("list: %d, %v", len(resp.GetContainers()), err)
			}
		}
	})
	h.within("down", n, func() {
		for k, p := range pods {
			containers[k].Stop(0)
			p.Remove()
		}
	})
}

// A heap counts the daemon's allocations by its own metrics.
type heap struct {
	t      *testing.T
	client *http.Client
	scrape float64 // what asking takes
}

var mallocs = regexp.MustCompile(`(?m)^go_memstats_mallocs_total (\S+)$`)

func (h *heap) now() float64 {
	h.t.Helper()
	resp, err := h.client.Get("http://daemon/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	m := mallocs.FindSubmatch(text)
	if m == nil {
		h.t.Fatalf("the metrics tell no allocations:\n%.300s", text)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// count returns how many objects do allocates, divided by n.
func (h *heap) count(n int, do func()) float64 {
	h.t.Helper()
	before := h.now()
	do()
	return (h.now() - before - h.scrape) / float64(n)
}

func (h *heap) within(what string, n int, do func()) {
	h.t.Helper()
	got := h.count(n, do)
	h.t.Logf("%s: %.0f objects of %.0f", what, got, allocationBounds[what])
	if got > allocationBounds[what] || got < 10 {
		h.t.Errorf("%s: %.0f objects allocated, at most %.0f", what, got, allocationBounds[what])
	}
}
