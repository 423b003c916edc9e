package guards

import (
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

// rounds is how many pods are counted together: background work of the daemon's
// own is then lost in the division.
const rounds = 5

func TestSystemCallsPerPod(t *testing.T) {
	// With its own network the daemon does not look for plugins every ten seconds.
	i := harness.New(t, harness.Args("--set", "network.mode=embedded"))
	image := i.Image("busybox")
	warm := i.RunPod()
	warm.Run("c", image, []string{"sleep", "1000"}).MustExec("true")
	// What is made for the next pods is made in the background; of each part it counts to that.
	pods := []*harness.Pod{}
	settled := func() {
		t.Helper()
		i.Wait("the links of these pods and the next", func() bool { return len(i.Links()) == 1+len(pods)+harness.Ahead })
	}
	settled()
	pids := append([]int{i.PID(), i.Keeper()}, harness.Children(i.Keeper())...)

	var containers []*harness.Container
	up := count(t, pids, func() {
		for range rounds {
			p := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "" })
			pods = append(pods, p)
			containers = append(containers, p.Run("c", image, []string{"sleep", "1000"}))
		}
		settled()
	})
	execs := count(t, pids, func() {
		for _, c := range containers {
			if r, err := c.Exec(time.Minute, "true"); err != nil || r.Code != 0 {
				t.Errorf("exec: %+v, %v", r, err)
			}
		}
	})
	down := count(t, pids, func() {
		for n, p := range pods {
			containers[n].Stop(0)
			p.Remove()
		}
	})
	within(t, "up", up, upBounds)
	within(t, "exec", execs, execBounds)
	within(t, "down", down, downBounds)
}

func within(t *testing.T, what string, got, bounds map[string]int) {
	t.Helper()
	for kind := range kinds {
		per := float64(got[kind]) / rounds
		t.Logf("%s: %s %.1f of %d", what, kind, per, bounds[kind])
		if per > float64(bounds[kind]) {
			t.Errorf("%s: %.1f %s per pod, at most %d", what, per, kind, bounds[kind])
		}
	}
}
