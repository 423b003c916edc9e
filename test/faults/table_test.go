// Package faults_test proves that nothing is lost and nothing is left, whichever
// step fails and whoever dies at it.
package faults_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) {
	supervise.Main()
	harness.Main(m)
}

// TestEveryStep has each step of a pod's life fail, be wrong, be slow, or be the
// last thing that serve or the keeper lived to see; the kubelet tries again, and
// at the end nothing is left. The names of the steps come from the daemon: it
// writes down which it passes.
func TestEveryStep(t *testing.T) {
	for _, action := range []string{"error", "panic", "delay 20ms", "kill", "kill keeper"} {
		t.Run(strings.ReplaceAll(action, " ", "-"), func(t *testing.T) {
			l := newLife(t)
			l.run("")
			points := l.passed()
			if len(points) < 25 {
				t.Fatalf("the daemon tells of %d fault points only: %q", len(points), points)
			}
			began := time.Now()
			for _, point := range points {
				l.arm(point, action)
				l.run(point)
				l.nothingLeft(point)
			}
			t.Logf("%s at %d points: %v", action, len(points), time.Since(began).Round(time.Millisecond))
		})
	}
}

// TestEveryUndo has each undo fail while a later step's failure is rolled back.
func TestEveryUndo(t *testing.T) {
	l := newLife(t)
	l.arm("pod: publish", "error")
	l.run("")
	l.arm("container: publish", "error")
	l.run("")
	for _, point := range l.passed() {
		of, name, _ := strings.Cut(point, ": ")
		if strings.HasPrefix(name, "undo ") {
			l.arm(of+": publish", "error")
			l.arm(point, "error")
			l.run(point)
			l.nothingLeft(point)
		}
	}
}

// A life is a pod's, from RunPodSandbox to RemovePodSandbox, over and over.
type life struct {
	*harness.Instance
	t      *testing.T
	faults string
	image  string
}

func newLife(t *testing.T, opts ...harness.Option) *life {
	dir := t.TempDir()
	i := harness.New(t, append(opts, harness.Env("CRIBOX_FAULTS="+dir))...)
	return &life{Instance: i, t: t, faults: dir, image: i.Image("probe")}
}

// arm has the daemon suffer an action when it next comes to the point.
func (l *life) arm(point, action string) {
	if err := os.WriteFile(filepath.Join(l.faults, point), []byte(action), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// passed lists the fault points that the daemon has come to, in that order.
func (l *life) passed() []string {
	text, err := os.ReadFile(filepath.Join(l.faults, "passed"))
	if err != nil {
		l.t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if name := strings.TrimSpace(line); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// tries is how often the kubelet asks again: the first may meet the fault, the
// second what is still being cleaned.
const tries = 3

// again repeats a call as the kubelet does, starting serve anew where it died.
func (l *life) again(what string, call func() error) {
	l.t.Helper()
	var errs []error
	for range tries {
		err := call()
		if err == nil {
			return
		}
		errs = append(errs, err)
		if code := status.Code(err); code == codes.Unavailable || code == codes.Canceled {
			l.revive()
		}
	}
	l.t.Fatalf("%s fails again and again: %v", what, errs)
}

// revive starts serve if it has died: its sockets are gone before it is.
func (l *life) revive() {
	l.t.Helper()
	l.Wait("serve to answer or to end", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := l.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil || !l.Running()
	})
	if !l.Running() {
		l.Start()
	}
}

// run leads one pod with one container through its life, with the fault that has
// been armed at point, and wants each call to succeed when it is repeated.
func (l *life) run(point string) {
	l.t.Helper()
	config := l.PodConfig()
	var pod *harness.Pod
	l.again(point+": RunPodSandbox", func() (err error) { pod, err = l.TryRunPod(config); return err })
	var c *harness.Container
	spec := pod.ContainerConfig("c", l.image, []string{"/bin/workload", "on-term", "7"})
	create := func() (err error) { c, err = pod.TryCreate(spec); return err }
	l.again(point+": CreateContainer", create)
	l.again(point+": StartContainer", func() error {
		err := c.TryStart()
		if err == nil || l.state(c) == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return nil
		}
		if l.state(c) == runtimeapi.ContainerState_CONTAINER_EXITED { // the kubelet makes another
			spec.Metadata.Attempt++
			l.again(point+": CreateContainer again", create)
		}
		return err
	})
	if s := l.state(c); s != runtimeapi.ContainerState_CONTAINER_RUNNING {
		l.t.Fatalf("%s: the container was started: %v", point, c.Status())
	}
	c.WaitOutput("ready") // from here on it ends when it is asked to
	l.again(point+": StopContainer", func() error {
		_, err := l.Runtime.StopContainer(l.Context(), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: 20})
		return err
	})
	l.again(point+": StopPodSandbox", func() error {
		_, err := l.Runtime.StopPodSandbox(l.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.ID})
		return err
	})
	l.again(point+": RemoveContainer", func() error {
		_, err := l.Runtime.RemoveContainer(l.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID})
		return err
	})
	l.again(point+": RemovePodSandbox", func() error {
		_, err := l.Runtime.RemovePodSandbox(l.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.ID})
		return err
	})
	l.again("Version", func() error {
		_, err := l.Runtime.Version(l.Context(), &runtimeapi.VersionRequest{})
		return err
	})
	// Most points are on the way of a call; what is done in the background comes soon.
	l.Wait(point+": the daemon to come to this point again", func() bool {
		_, err := os.Stat(filepath.Join(l.faults, point))
		return point == "" || err != nil
	})
}

func (l *life) state(c *harness.Container) runtimeapi.ContainerState {
	l.t.Helper()
	state := runtimeapi.ContainerState_CONTAINER_UNKNOWN
	l.again("ContainerStatus", func() error {
		resp, err := l.Runtime.ContainerStatus(l.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
		if err == nil {
			state = resp.Status.State
		}
		return err
	})
	return state
}

// nothingLeft looks where a pod has its things, so that the step is named that
// leaves them; the harness looks everywhere, but at the end.
func (l *life) nothingLeft(point string) {
	l.t.Helper()
	for _, pattern := range []string{
		filepath.Join(l.Root, "pods", "*"), filepath.Join(l.Root, "containers", "*"),
		filepath.Join(l.State, "pods", "*"), filepath.Join(l.State, "containers", "*"),
		"/run/netns/" + l.Name + "-*", "/sys/fs/cgroup/" + l.Name + "/*", "/sys/fs/cgroup/*/" + l.Name + "/*", "/sys/fs/cgroup/*/*/" + l.Name + "/*",
	} {
		left, _ := filepath.Glob(pattern)
		for _, name := range left {
			if strings.HasPrefix(name, "/sys/fs/cgroup") && !isDir(name) {
				continue
			}
			l.t.Errorf("%s: left over: %s", point, name)
		}
	}
}

func isDir(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir()
}
