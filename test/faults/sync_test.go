package faults_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hold has calls of these names wait until the gate is closed.
func hold(gate chan struct{}, names ...string) func(*supervise.Call) supervise.Answer {
	return func(c *supervise.Call) supervise.Answer {
		if slices.Contains(names, c.Name()) {
			<-gate
		}
		return supervise.GoOn
	}
}

// TestSlowDisk: a disk that takes its time to sync keeps the pull that waits for it,
// which says so; no pod notices, and a start of serve does not wait.
func TestSlowDisk(t *testing.T) {
	var boss *supervise.Supervisor
	i := harness.New(t, func(i *harness.Instance) {
		boss = supervise.New(t, harness.CriBox(t))
		i.Build = boss.Program
	})
	image := i.Image("probe")
	undisturbed(t, i, image)
	for step, calls := range map[string][]string{"sync layers": {"syncfs"}, "write record": {"fdatasync"}} {
		gate := make(chan struct{})
		ref := i.Push(strings.ReplaceAll(step, " ", "-"), imagetest.New().File("step", 0o644, []byte(step)).Build())
		pull := func() error {
			_, err := i.Images.PullImage(i.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
			return err
		}
		boss.Decide(hold(gate, calls...))
		pulled := make(chan error, 1)
		go func() { pulled <- pull() }()
		i.Wait("`why` to say where the pull stands", func() bool {
			text := why(i, ref)
			return strings.Contains(text, "pull of "+ref) && strings.Contains(text, `at step "`+step+`" for`)
		})
		if out := metrics(t, i); !strings.Contains(out, `cri_box_stage_age_seconds{object="pull",stage="`+step+`"}`) {
			t.Errorf("the metrics do not tell of %q", step)
		}
		undisturbed(t, i, image)
		if step == "sync layers" {
			close(gate)
			if err := <-pulled; err != nil {
				t.Errorf("%s: %v", step, err)
			}
			continue
		}
		i.Kill()
		<-pulled
		boss.Decide(hold(gate, "syncfs", "fsync", "fdatasync")) // now nothing can be synced
		i.Start()
		undisturbed(t, i, image)
		close(gate)
		if err := pull(); err != nil {
			t.Errorf("%s, after the restart: %v", step, err)
		}
	}
}

// metrics is what Prometheus would read.
func metrics(t *testing.T, i *harness.Instance) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(i.State, "admin.sock"))
	}}}
	resp, err := client.Get("http://daemon/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
