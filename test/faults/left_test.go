package faults_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStartIsLeft: a client that goes away while its container is being started,
// as a kubelet that is restarted, has not made it one that cannot run.
func TestStartIsLeft(t *testing.T) {
	l := newLife(t)
	pod := l.RunPod()
	for _, point := range []string{"start: open log", "start: spawn"} {
		var c *harness.Container
		for delay := 300 * time.Millisecond; ; delay *= 4 { // it may be over before this client goes away
			c = pod.Create(fmt.Sprint(point[7:], " ", delay), l.image, []string{"/bin/workload", "on-term", "7"})
			if l.startAndLeave(c, point, delay) {
				break
			}
			if delay > 10*time.Second {
				t.Fatalf("%s: the start was not cancelled", point)
			}
		}
		l.Wait("the start to end", func() bool { return c.Status().State != runtimeapi.ContainerState_CONTAINER_CREATED })
		if s := c.Status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: the container is %v: %s %s", point, s.State, s.Reason, s.Message)
			continue
		}
		c.WaitOutput("ready")
	}
}

// startAndLeave goes away while the container's start takes that long at a point;
// false if it was over before.
func (l *life) startAndLeave(c *harness.Container, point string, delay time.Duration) bool {
	l.t.Helper()
	l.arm(point, "delay "+delay.String())
	ctx, cancel := context.WithCancel(l.Context())
	left := make(chan error, 1)
	go func() {
		_, err := l.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ID})
		left <- err
	}()
	l.Wait("the daemon to be at "+point, func() bool {
		_, err := os.Stat(filepath.Join(l.faults, point))
		return err != nil
	})
	cancel()
	return <-left != nil
}

// TestHalfStopped: a pod that was being stopped when the daemon was killed has no
// network any more. The next daemon goes on with that, and starts nothing in it.
func TestHalfStopped(t *testing.T) {
	l := newLife(t)
	for _, point := range []string{"stop pod: record", "pod: undo pin network namespace"} {
		pod := l.RunPod()
		c := pod.Run("c", l.image, []string{"/bin/workload", "sleep-forever"})
		l.arm(point, "kill")
		if _, err := l.Runtime.StopPodSandbox(l.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.ID}); err == nil {
			t.Fatalf("%s: the daemon was not killed", point)
		}
		l.revive()
		if _, err := pod.TryCreate(pod.ContainerConfig("d", l.image, []string{"/bin/workload", "sleep-forever"})); err == nil {
			t.Errorf("%s: the pod takes another container", point)
		}
		l.Wait(point+": the pod to be stopped", func() bool { return pod.Status().State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY })
		if s := c.Status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("%s: its container is %v", point, s.State)
		}
		pod.Stop()
		pod.Remove()
	}
}

// TestUpdateAfterRestart: what was made and not started takes other limits also from
// the next daemon, and is started with them.
func TestUpdateAfterRestart(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Create("c", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	i.Kill()
	i.Start()
	limits := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	if _, err := i.Runtime.UpdateContainerResources(i.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: limits}); err != nil {
		t.Fatal(err)
	}
	c.Start()
	stats, err := i.Runtime.ContainerStats(i.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	m := stats.Stats.Memory
	if got := m.GetAvailableBytes().GetValue() + m.GetWorkingSetBytes().GetValue(); got != 64<<20 {
		t.Errorf("the limit is %d", got)
	}
}
