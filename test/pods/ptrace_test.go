package pods_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// foreign is what the hunter must not find: another container's environment.
const foreign = "this belongs to another container"

// huntedExecs and huntedStarts are how many half-made processes it may race; an
// emulated machine gives it more time for each.
var huntedExecs, huntedStarts = 1000 / int(harness.Long(1)), 20

// TestHalfMadeProcesses: a container with CAP_SYS_PTRACE, as debug containers have
// it, takes hold of processes on their way into its PID namespace. It finds
// nothing in them that it does not have itself.
func TestHalfMadeProcesses(t *testing.T) {
	i := harness.New(t, harness.Env("CRIBOX_SECRET="+foreign))
	image := i.Image(probe)
	other := i.RunPod().Run("other", image, sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "SECRET", Value: []byte(foreign)}}
	})
	pod := i.RunPod(namespaces(modePod, modePod, modePod))
	hunter := startHunter(t, pod, image)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range huntedExecs / 4 {
				hunter.Exec(20*time.Second, "workload", "exit", "0") // it may come to nothing: it is being hunted
				if n%10 == 0 {
					other.Exec(20*time.Second, run("exit", "0")...)
				}
			}
		})
	}
	for n := range huntedStarts {
		if c, err := pod.TryCreate(pod.ContainerConfig(fmt.Sprint("c", n), image, []string{"workload", "exit", "0"}, slowPath, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault))); err == nil {
			c.TryStart()
		}
	}
	wg.Wait()
	caught := hunted(t, hunter)
	t.Logf("of %d processes %s before they executed their program", huntedExecs+huntedStarts, caught)
	if caught == "caught 0" {
		t.Error("the hunter caught nobody: this test proves nothing")
	}
}

// slowPath makes a process's way long: each of these directories is tried.
func slowPath(c *runtimeapi.ContainerConfig) {
	path := strings.Repeat("/nowhere:", 100) + "/bin"
	c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "PATH", Value: []byte(path)})
}

func startHunter(t *testing.T, pod *harness.Pod, image string) *harness.Container {
	t.Helper()
	hunter := pod.Run("hunter", image, run("hunt", foreign[1:]), slowPath, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault),
		security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
			// The default profile would not let it trace what has none yet.
			s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}))
	hunter.WaitOutput("ready")
	return hunter
}

// hunted ends the hunt: what was found is an error. It returns the last line.
func hunted(t *testing.T, hunter *harness.Container) string {
	t.Helper()
	hunter.Stop(60)
	lines := strings.Split(strings.TrimSpace(hunter.Output("stdout")), "\n")
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, "found") {
			t.Error(line)
		}
	}
	return lines[len(lines)-1]
}
