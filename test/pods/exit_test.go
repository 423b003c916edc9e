package pods_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExitCodes(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	for _, c := range []struct {
		name   string
		verb   []string
		code   int32
		reason string
	}{
		{"zero", run("exit", "0"), 0, "Completed"},
		{"seven", run("exit", "7"), 7, "Error"},
		{"top", run("exit", "255"), 255, "Error"},
		{"orphaned child", run("linger", "3"), 3, "Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := time.Now()
			status := pod.Run(strings.ReplaceAll(c.name, " ", "-"), i.Image(probe), c.verb).WaitExit()
			equal(t, "exit code", status.ExitCode, c.code)
			equal(t, "reason", status.Reason, c.reason)
			checkTimes(t, status, before)
		})
	}
}

// checkTimes wants created ≤ started ≤ finished, all during the test.
func checkTimes(t *testing.T, s *runtimeapi.ContainerStatus, before time.Time) {
	t.Helper()
	after := time.Now().UnixNano()
	if s.CreatedAt < before.UnixNano() || s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt || s.FinishedAt > after {
		t.Errorf("created %d, started %d, finished %d; the test ran from %d to %d",
			s.CreatedAt, s.StartedAt, s.FinishedAt, before.UnixNano(), after)
	}
}

// TestKilledBySignal: n becomes 128+n. In a shared PID namespace, because process
// 1 of its own is deaf to all but SIGKILL (pid_namespaces(7)), and with a program
// that does not handle signals, as Go's runtime does.
func TestKilledBySignal(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modePod, modePod, modePod))
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSEGV, syscall.SIGUSR1} {
		c := pod.Run(fmt.Sprintf("signal-%d", sig), i.Image(busybox), []string{"/bin/sleep", "1000"})
		syscall.Kill(c.PID(), sig)
		equal(t, "exit code after "+sig.String(), c.WaitExit().ExitCode, 128+int32(sig))
	}
}

func TestOOMKilled(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("eater", i.Image(probe), run("eat-memory", "200000000"), resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes = 32 << 20
	}))
	status := c.WaitExit()
	equal(t, "reason", status.Reason, "OOMKilled")
	equal(t, "exit code", status.ExitCode, 137)
	if strings.Contains(c.Output("stdout"), "ate") {
		t.Error("it ate 200 MB under a limit of 32 MiB")
	}
}

// TestKilledIsNotOOMKilled: 137 alone is no proof.
func TestKilledIsNotOOMKilled(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper, resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes = 64 << 20
	}))
	syscall.Kill(c.PID(), syscall.SIGKILL)
	status := c.WaitExit()
	equal(t, "exit code", status.ExitCode, 137)
	equal(t, "reason", status.Reason, "Error")
}

// TestStartWithoutMemory: 128m instead of 128M, which the kubelet makes one byte.
func TestStartWithoutMemory(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Create("c", i.Image(probe), sleeper, resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 1 }))
	err := c.TryStart()
	if err == nil || !strings.Contains(err.Error(), "its memory limit is 1 bytes") {
		t.Errorf("starting with one byte of memory: %v", err)
	}
	status := c.Status()
	equal(t, "state", status.State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "reason", status.Reason, "StartError")
	pod.Run("other", i.Image(probe), sleeper)
}

func TestStartError(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Create("c", i.Image(probe), []string{"/bin/missing"})
	err := c.TryStart()
	if err == nil || !strings.Contains(err.Error(), "/bin/missing") {
		t.Errorf("starting what does not exist: %v", err)
	}
	status := c.Status()
	equal(t, "state", status.State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "exit code", status.ExitCode, 128)
	equal(t, "reason", status.Reason, "StartError")
	if !strings.Contains(status.Message, "no such file or directory") {
		t.Errorf("the message %q does not say why", status.Message)
	}
}

func TestStopGrace(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	t.Run("a process that ends on SIGTERM keeps its code", func(t *testing.T) {
		c := pod.Run("polite", i.Image(probe), run("on-term", "5"))
		c.WaitOutput("ready")
		begin := time.Now()
		c.Stop(30)
		equal(t, "exit code", c.Status().ExitCode, 5)
		if took := time.Since(begin); took > harness.Long(10*time.Second) {
			t.Errorf("stopping took %v", took)
		}
	})
	t.Run("a process that does not is killed after its grace", func(t *testing.T) {
		c := pod.Run("stubborn", i.Image(probe), run("ignore-term"))
		c.WaitOutput("ready")
		begin := time.Now()
		c.Stop(1)
		equal(t, "exit code", c.Status().ExitCode, 137)
		if took := time.Since(begin); took < time.Second || took > harness.Long(10*time.Second) {
			t.Errorf("a grace of 1 s took %v", took)
		}
	})
	t.Run("grace 0 kills at once", func(t *testing.T) {
		c := pod.Run("now", i.Image(probe), run("on-term", "5"))
		c.WaitOutput("ready")
		c.Stop(0)
		equal(t, "exit code", c.Status().ExitCode, 137)
	})
	t.Run("the shortest of two graces wins", func(t *testing.T) {
		c := pod.Run("twice", i.Image(probe), run("ignore-term"))
		c.WaitOutput("ready")
		begin := time.Now()
		long := make(chan error, 1)
		go func() {
			_, err := c.Runtime.StopContainer(c.Context(), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: 50})
			long <- err
		}()
		c.Stop(1)
		if err := <-long; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > min(harness.Long(20*time.Second), 45*time.Second) {
			t.Errorf("both took %v", took)
		}
	})
}

// resources changes a container's limits.
func resources(change func(*runtimeapi.LinuxContainerResources)) harness.ContainerOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{}
		change(c.Linux.Resources)
	}
}
