package faults_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPackageUpgrade: another build of serve takes over and has the keeper go on as
// its own, in place; then the first one comes back. Containers write all the while.
func TestPackageUpgrade(t *testing.T) {
	i := harness.New(t)
	image := i.Image("busybox")
	pod := i.RunPod()
	counter := pod.Run("counter", image, []string{"/bin/workload", "count", "1"})
	polite := pod.Run("polite", image, []string{"/bin/workload", "on-term", "7"})
	terminal := pod.Run("terminal", image, []string{"/bin/workload", "count", "1"}, func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	polite.WaitOutput("ready")
	keeper, pid := i.Keeper(), counter.PID()
	first := keeperBuild(keeper)
	for n, build := range []string{harness.NextCriBox(t), harness.CriBox(t)} {
		short := pod.Run("short"+strconv.Itoa(n), image, []string{"/bin/workload", "exit", strconv.Itoa(20 + n)})
		i.Kill()
		i.Build = build
		i.Start()
		i.Wait("the keeper's other build", func() bool { return (keeperBuild(keeper) != first) == (n == 0) })
		i.Wait("the other builds' binaries to go", func() bool {
			binaries, _ := filepath.Glob(filepath.Join(i.Root, "bin", "*"))
			return len(binaries) == 1 && filepath.Base(binaries[0]) == keeperBuild(keeper)
		})
		if got := i.Keeper(); got != keeper {
			t.Fatalf("the keeper is process %d, it was %d", got, keeper)
		}
		if code := short.WaitExit().ExitCode; code != int32(20+n) {
			t.Errorf("exit code %d at upgrade %d", code, n)
		}
		if got := counter.PID(); got != pid {
			t.Errorf("the counter is process %d, it was %d", got, pid)
		}
		pod.Run("late"+strconv.Itoa(n), image, []string{"/bin/workload", "sleep-forever"}).MustExec("/bin/true")
	}
	for _, c := range []*harness.Container{counter, terminal} {
		c.Stop(30)
		whole(t, strings.ReplaceAll(c.Output("stdout"), "\r", ""))
	}
	polite.Stop(20)
	if s := polite.Status(); s.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", s.ExitCode)
	}
}

// keeperBuild is what the keeper was started as.
func keeperBuild(pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	args := strings.Split(string(b), "\x00")
	if err != nil || len(args) < 4 {
		return ""
	}
	return args[3]
}
