package faults_test

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The bounds for a restart of serve with as many pods as CRIBOX_PODS says: on a
// machine with nothing else to do.
const (
	firstAnswer = 300 * time.Millisecond
	allPods     = time.Second
)

// TestRestartWithManyPods: a serve that starts anew knows every pod, also where the
// keeper died too. With CRIBOX_PODS, 300 for the figure in docs/durability.md, it
// must give its first answers in time.
func TestRestartWithManyPods(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("CRIBOX_PODS"))
	timed := err == nil
	if !timed {
		n = 60
	}
	i := harness.New(t)
	makePods(t, i, n)
	for _, how := range []string{"killed", "killed with the keeper"} {
		if how == "killed" {
			i.Kill()
		} else {
			killBoth(i)
		}
		first, all := restart(t, i, n)
		t.Logf("%s, %d pods: Version and Status after %v, all pods after %v", how, n, first.Round(time.Millisecond), all.Round(time.Millisecond))
		if timed && how == "killed" && (first > firstAnswer || all > allPods) {
			t.Errorf("%s: want %v and %v", how, firstAnswer, allPods)
		}
		ready(t, i, n)
	}
}

// TestAnswersBeforeAllIsKnown: Version and Status do not wait for the pods' records
// to be read and set right.
func TestAnswersBeforeAllIsKnown(t *testing.T) {
	var boss *supervise.Supervisor
	i := harness.New(t, func(i *harness.Instance) {
		boss = supervise.New(t, harness.CriBox(t))
		i.Build = boss.Program
	})
	c := i.RunPod().Run("ends", i.Image("busybox"), []string{"/bin/workload", "sleep-forever"})
	pid := c.PID()
	i.Kill()
	syscall.Kill(pid, syscall.SIGKILL) // serve has an end to write down when it is back
	gate := make(chan struct{})
	boss.Decide(func(c *supervise.Call) supervise.Answer {
		if c.Name() == "openat" && strings.HasPrefix(c.Paths()[0], i.Root+"/containers/") {
			<-gate
		}
		return supervise.GoOn
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(gate)
		client := runtimeapi.NewRuntimeServiceClient(i.Dial())
		if _, err := client.Version(i.Context(), &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
		if _, err := client.Status(i.Context(), &runtimeapi.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
		if !strings.Contains(metrics(t, i), "cri_box_recovering 1") {
			t.Error("the metrics do not tell that records are still read")
		}
	}()
	i.Start()
	<-done
	if s := c.WaitExit(); s.ExitCode != 137 {
		t.Errorf("code %d of what was killed meanwhile", s.ExitCode)
	}
}

func makePods(t *testing.T, i *harness.Instance, n int) {
	t.Helper()
	image := i.Image("probe")
	pods := make([]*harness.Pod, n)
	for k := range pods {
		pods[k] = i.RunPod()
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		c := p.Create("c", image, []string{"/bin/workload", "sleep-forever"})
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.TryStart(); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

// restart starts serve and says when it first answered and when it knew all pods.
func restart(t *testing.T, i *harness.Instance, n int) (first, all time.Duration) {
	t.Helper()
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := runtimeapi.NewRuntimeServiceClient(i.Dial())
		for {
			if _, err := client.Version(i.Context(), &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err == nil {
				break
			}
		}
		if _, err := client.Status(i.Context(), &runtimeapi.StatusRequest{}); err != nil {
			t.Error(err)
		}
		first = time.Since(began)
		if _, err := client.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil {
			t.Error(err)
		}
		all = time.Since(began)
	}()
	i.Start()
	<-done
	return first, all
}

// ready wants n pods ready and n containers running.
func ready(t *testing.T, i *harness.Instance, n int) {
	t.Helper()
	pods, err := i.Runtime.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		t.Fatal(err)
	}
	containers, err := i.Runtime.ListContainers(i.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != n || len(containers.Containers) != n {
		t.Errorf("%d pods ready and %d containers running, want %d", len(pods.Items), len(containers.Containers), n)
	}
}
