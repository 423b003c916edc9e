package faults_test

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The design's bounds for a restart with 300 pods, and how many times longer it
// may take where other tests run beside this one.
const (
	firstAnswer = 300 * time.Millisecond
	allPods     = time.Second
	crowd       = 5
)

// TestRestartWithManyPods measures how long after its start serve gives its first
// answer and knows all pods. CRIBOX_PODS says how many, 300 for the figure in the
// design.
func TestRestartWithManyPods(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("CRIBOX_PODS"))
	if err != nil {
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
		version, all := restart(t, i, n)
		t.Logf("%s, %d pods: Version after %v, all pods after %v", how, n, version.Round(time.Millisecond), all.Round(time.Millisecond))
		if version > harness.Long(crowd*firstAnswer) || all > harness.Long(crowd*allPods) {
			t.Errorf("%s: want %v and %v", how, firstAnswer, allPods)
		}
		ready(t, i, n)
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
func restart(t *testing.T, i *harness.Instance, n int) (version, all time.Duration) {
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
		version = time.Since(began)
		if _, err := client.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil {
			t.Error(err)
		}
		all = time.Since(began)
	}()
	i.Start()
	<-done
	return version, all
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
