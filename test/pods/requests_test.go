package pods_test

import (
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVersionAndStatus(t *testing.T) {
	i := harness.New(t)
	v, err := i.Runtime.Version(i.Context(), &runtimeapi.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "runtime", v.RuntimeName, "cri-box")
	if v.Version == "" || v.RuntimeApiVersion == "" || strings.Count(v.RuntimeVersion, ".") < 2 || strings.Contains(v.RuntimeVersion, "devel") {
		t.Errorf("version %+v", v)
	}
	s, err := i.Runtime.Status(i.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	conditions := map[string]bool{}
	for _, c := range s.Status.Conditions {
		conditions[c.Type] = c.Status
	}
	if !conditions["RuntimeReady"] || !conditions["NetworkReady"] {
		t.Errorf("conditions %v", s.Status.Conditions)
	}
	if !strings.Contains(s.Info["config"], "sandboxImage") {
		t.Errorf("info has no sandboxImage, which kubeadm reads: %v", s.Info)
	}
	r, err := i.Runtime.RuntimeConfig(i.Context(), &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if harness.BySystemd() {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	equal(t, "cgroup driver", r.Linux.CgroupDriver, driver)
}

// TestPodIsIdempotent: the same request gives the same pod, also after a restart;
// another one under its name is refused with the field.
func TestPodIsIdempotent(t *testing.T) {
	i := harness.New(t)
	config := i.PodConfig()
	pod, err := i.TryRunPod(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at once", "after a restart"} {
		again, err := i.TryRunPod(config)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		equal(t, "id "+when, again.ID, pod.ID)
		config.Hostname = "other"
		_, err = i.TryRunPod(config)
		equal(t, "code of another configuration "+when, status.Code(err), codes.AlreadyExists)
		if !strings.Contains(status.Convert(err).Message(), "hostname") {
			t.Errorf("%s: %v does not name the field", when, err)
		}
		config.Hostname = "pod-1"
		i.Restart()
	}
	checkID(t, pod.ID)
	config.Metadata.Attempt++
	next, err := i.TryRunPod(config)
	if err != nil {
		t.Fatal(err)
	}
	if next.ID == pod.ID {
		t.Error("the next attempt has the same id")
	}
}

func checkID(t *testing.T, id string) {
	t.Helper()
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		t.Errorf("id %q is not 64 lower-case hex digits", id)
	}
}

func TestContainerIsIdempotent(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	config := pod.ContainerConfig("c", i.Image(probe), sleeper)
	c, err := pod.TryCreate(config)
	if err != nil {
		t.Fatal(err)
	}
	checkID(t, c.ID)
	again, err := pod.TryCreate(config)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "id", again.ID, c.ID)
	config.Command = run("exit", "0")
	_, err = pod.TryCreate(config)
	equal(t, "code of another configuration", status.Code(err), codes.AlreadyExists)
	if !strings.Contains(status.Convert(err).Message(), "command") {
		t.Errorf("%v does not name the field", err)
	}
}

// TestStopAndRemoveTwice: and of what never was.
func TestStopAndRemoveTwice(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), sleeper)
	for range 2 {
		c.Stop(0)
	}
	for range 2 {
		c.Remove()
	}
	for range 2 {
		pod.Stop()
	}
	for range 2 {
		pod.Remove()
	}
	_, err := i.Runtime.ContainerStatus(i.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	equal(t, "code of a removed container", status.Code(err), codes.NotFound)
	_, err = i.Runtime.PodSandboxStatus(i.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.ID})
	equal(t, "code of a removed pod", status.Code(err), codes.NotFound)
	never := &harness.Pod{Instance: i, ID: strings.Repeat("0", 64)}
	never.Stop()
	never.Remove()
	gone := &harness.Container{Pod: never, ID: never.ID}
	gone.Stop(0)
	gone.Remove()
}

// TestRemovePodWithRunningContainers: removal is forced.
func TestRemovePodWithRunningContainers(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	pid := pod.Run("c", i.Image(probe), run("ignore-term")).PID()
	pod.Remove()
	if harness.Alive(pid) {
		t.Error("the container outlived its pod")
	}
	list, err := i.Runtime.ListContainers(i.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "containers left", len(list.Containers), 0)
}

func TestStoppedPod(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), sleeper)
	pod.Stop()
	equal(t, "state of the pod", pod.Status().State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	equal(t, "state of the container", c.Status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
	if _, err := pod.TryCreate(pod.ContainerConfig("late", i.Image(probe), sleeper)); err == nil {
		t.Error("a container was made in a stopped pod")
	}
}

func TestLists(t *testing.T) {
	i := harness.New(t)
	labelled := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Labels, c.Annotations = map[string]string{"k": "v"}, map[string]string{"a": "b"}
	})
	other := i.RunPod()
	runs := labelled.Run("runs", i.Image(probe), sleeper)
	created := other.Create("created", i.Image(probe), sleeper)

	pods, err := i.Runtime.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"k": "v"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 1 || pods.Items[0].Id != labelled.ID || pods.Items[0].Annotations["a"] != "b" {
		t.Errorf("pods with the label: %v", pods.Items)
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for what, c := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"all":             {nil, []string{runs.ID, created.ID}},
		"running":         {&runtimeapi.ContainerFilter{State: running}, []string{runs.ID}},
		"of a pod":        {&runtimeapi.ContainerFilter{PodSandboxId: other.ID}, []string{created.ID}},
		"by a short id":   {&runtimeapi.ContainerFilter{Id: runs.ID[:13]}, []string{runs.ID}},
		"of an empty pod": {&runtimeapi.ContainerFilter{PodSandboxId: strings.Repeat("0", 64)}, nil},
	} {
		resp, err := i.Runtime.ListContainers(i.Context(), &runtimeapi.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, item := range resp.Containers {
			got[item.Id] = true
		}
		equal(t, "containers "+what, len(got), len(c.want))
		for _, id := range c.want {
			equal(t, "listed "+what, got[id], true)
		}
	}
}

// TestBadRequests: what is wrong is named, as InvalidArgument.
func TestBadRequests(t *testing.T) {
	i := harness.New(t)
	for field, opt := range map[string]harness.PodOption{
		"metadata": func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"sysctls":  func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} },
		"run_as_group": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		},
	} {
		config := i.PodConfig()
		opt(config)
		_, err := i.TryRunPod(config)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("a bad %s: %v", field, err)
		}
	}
	_, err := i.Runtime.RunPodSandbox(i.Context(), &runtimeapi.RunPodSandboxRequest{Config: i.PodConfig(), RuntimeHandler: "nobody"})
	if err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("an unknown runtime handler: %v", err)
	}
}

// TestBadCalls: every call says what it misses, or that what it names is not here,
// by the code that says so.
func TestBadCalls(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	none, ctx := strings.Repeat("0", 64), i.Context()
	invalid, missing := codes.InvalidArgument, codes.NotFound
	for _, bad := range []struct {
		what string
		call func() (any, error)
		code codes.Code
		word string
	}{
		{"CreateContainer without a pod", func() (any, error) {
			return i.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{Config: &runtimeapi.ContainerConfig{}})
		}, invalid, "pod_sandbox_id"},
		{"CreateContainer without a configuration", func() (any, error) {
			return i.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: c.Pod.ID})
		}, invalid, "config"},
		{"RunPodSandbox without a configuration", func() (any, error) { return i.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{}) }, invalid, "config"},
		{"PodSandboxStatus", func() (any, error) {
			return i.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: none})
		}, missing, none},
		{"StartContainer", func() (any, error) {
			return i.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: none})
		}, missing, none},
		{"StartContainer again", func() (any, error) {
			return i.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ID})
		}, codes.FailedPrecondition, c.ID},
		{"ContainerStatus", func() (any, error) {
			return i.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: none})
		}, missing, none},
		{"ContainerStats", func() (any, error) {
			return i.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: none})
		}, missing, none},
		{"PodSandboxStats", func() (any, error) {
			return i.Runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: none})
		}, missing, none},
		{"UpdateContainerResources", func() (any, error) {
			return i.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID,
				Linux: &runtimeapi.LinuxContainerResources{CpuQuota: -7}})
		}, invalid, "cpu_quota"},
		{"ReopenContainerLog", func() (any, error) {
			return i.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: none})
		}, missing, none},
		{"ExecSync without a command", func() (any, error) { return i.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID}) }, invalid, "cmd"},
		{"ExecSync with a timeout below zero", func() (any, error) {
			return i.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}, Timeout: -1})
		}, invalid, "timeout"},
		{"Attach without a stream", func() (any, error) { return i.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: c.ID}) }, invalid, "stdin"},
		{"PortForward to a port that is none", func() (any, error) {
			return i.Runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: c.Pod.ID, Port: []int32{0}})
		}, invalid, "port"},
		{"ImageStatus without an image", func() (any, error) { return i.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{}) }, invalid, "image"},
		{"RemoveImage without an image", func() (any, error) { return i.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{}) }, invalid, "image"},
	} {
		_, err := bad.call()
		if text := status.Convert(err).Message(); status.Code(err) != bad.code || !strings.Contains(text, bad.word) {
			t.Errorf("%s: %v; wanted %v with %q", bad.what, err, bad.code, bad.word)
		}
	}
	equal(t, "state", c.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestServeTwice(t *testing.T) {
	i := harness.New(t)
	second := i.Serve()
	var out strings.Builder
	second.Stdout, second.Stderr = &out, &out
	if err := i.Node.Do(second.Run); err == nil {
		t.Error("a second serve on the same state directory ended without an error")
	}
	if !strings.Contains(out.String(), i.State) {
		t.Errorf("it said %q, without the directory", out.String())
	}
	if _, err := i.Runtime.Version(i.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("the first one is disturbed: %v", err)
	}
}
