package stats_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lost is what the daemon's metric says.
func lost(t *testing.T, i *harness.Instance) int {
	t.Helper()
	resp, err := i.Node.Client().Get("http://127.0.0.1:9437/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	m := regexp.MustCompile(`(?m)^cri_box_events_lost_total (\d+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no such metric in:\n%s", text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func listen(t *testing.T, i *harness.Instance) runtimeapi.RuntimeService_GetContainerEventsClient {
	t.Helper()
	stream, err := i.Runtime.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = stream.Header() // from here on nothing is missed
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// TestSlowReader: one that does not read loses its own oldest events, and nobody
// else's; the metric says how many. Nothing waits for it.
func TestSlowReader(t *testing.T) {
	i := harness.New(t, harness.Args("--set", "metrics.address=127.0.0.1:9437"))
	image := i.Image(probe)
	// What is on its way to a reader is bounded in bytes: large events fill that soon.
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"large": strings.Repeat("x", 16<<10)}
	})
	slow, quick := listen(t, i), listen(t, i)
	var mu sync.Mutex
	seen := 0
	go func() {
		for {
			if _, err := quick.Recv(); err != nil {
				return
			}
			mu.Lock()
			seen++
			mu.Unlock()
		}
	}()
	turn := func(name string) error {
		c, err := i.Runtime.CreateContainer(i.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod.ID,
			Config: pod.ContainerConfig(name, image, sleeper), SandboxConfig: pod.Config})
		if err != nil {
			return err
		}
		_, err = i.Runtime.RemoveContainer(i.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: c.ContainerId})
		return err
	}
	told := 0
	for told < 4096 && lost(t, i) == 0 {
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for range 16 {
					if err := turn(fmt.Sprint("c", worker)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		told += 2 * 8 * 16
	}
	gone := lost(t, i)
	i.Wait("all events to come to the quick reader", func() bool { mu.Lock(); defer mu.Unlock(); return seen >= told })
	equal(t, "events of the quick reader", seen, told)
	if gone == 0 {
		t.Fatalf("after %d events none is lost", told)
	}
	for n := range told - gone {
		if _, err := slow.Recv(); err != nil {
			t.Fatalf("after %d of %d events: %v", n, told-gone, err)
		}
	}
	last := pod.Create("last", image, sleeper)
	if e, err := slow.Recv(); err != nil || e.ContainerId != last.ID {
		t.Errorf("after what was not lost comes %s, %v; want the last container's %s", e.GetContainerId(), err, last.ID)
	}
}
