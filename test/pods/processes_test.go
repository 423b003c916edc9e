package pods_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestNoProgramButTheContainers: through a pod's whole life serve, keeper and
// spawner execute nothing but what was asked for, and mount nothing in the
// machine's namespace but the pin of the pod's network.
func TestNoProgramButTheContainers(t *testing.T) {
	i := harness.New(t)
	image := i.Image(probe)
	i.RunPod().Run("warm-up", image, run("exit", "0")).WaitExit()
	keeper := i.Keeper()
	cri := append([]int{i.PID(), keeper}, harness.Children(keeper)...)

	events := harness.WatchProcesses(t)
	executed := func(step string, want int) {
		t.Helper()
		equal(t, "execve "+step, harness.Execs(harness.Family(events.Take(t), cri...)), want)
	}
	before := mountPoints(t)
	pod := i.RunPod(port(8098, 80), bandwidth("10M")) // all that the network has to do
	executed("of RunPodSandbox", 0)
	c := pod.Create("c", image, run("on-term", "0"))
	executed("of CreateContainer", 0)
	c.Start()
	c.WaitOutput("ready") // execve(2) lets its caller go on before it tells that it was made
	executed("of StartContainer", 1)
	c.MustExec(run("exit", "0")...)
	executed("of ExecSync", 1)
	checkPin(t, i, pod, before)
	c.Stop(0)
	c.Remove()
	pod.Stop()
	pod.Remove()
	executed("of stop and remove", 0)
	equal(t, "mounts after it all", strings.Join(newMounts(t, i, before), " "), "")
}

func mountPoints(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, line := range strings.Split(strings.TrimSpace(readFile(t, "/proc/self/mountinfo")), "\n") {
		list = append(list, strings.Fields(line)[4])
	}
	return list
}

// newMounts lists the mount points that were not there before and name this
// instance: others may mount what they like meanwhile.
func newMounts(t *testing.T, i *harness.Instance, before []string) []string {
	t.Helper()
	return slices.DeleteFunc(mountPoints(t), func(m string) bool {
		return slices.Contains(before, m) || !strings.Contains(m, i.Name) && !strings.HasPrefix(m, i.Dir)
	})
}

// checkPin wants the pod's pin among the new mounts and nothing else.
func checkPin(t *testing.T, i *harness.Instance, pod *harness.Pod, before []string) {
	t.Helper()
	pin := "/run/netns/" + i.Name + "-" + pod.ID[:12]
	if added := newMounts(t, i, before); len(slices.Compact(added)) != 1 || added[0] != pin {
		t.Errorf("mounts of a running pod: %q, want %s", added, pin)
	}
}
