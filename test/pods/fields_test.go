package pods_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What CRI has and cri-box does not do yet, by field: each is refused by name.
// docs/cri.md lists them as refused.
var refusedInPods = map[string]struct {
	word string // in the error
	set  func(*runtimeapi.PodSandboxConfig)
}{
	"PodSandboxConfig.windows":                    {"windows", func(c *runtimeapi.PodSandboxConfig) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} }},
	"SELinuxOption.user":                          {"selinux_options", selinuxPod(&runtimeapi.SELinuxOption{User: "u"})},
	"SELinuxOption.role":                          {"selinux_options", selinuxPod(&runtimeapi.SELinuxOption{Role: "r"})},
	"SELinuxOption.type":                          {"selinux_options", selinuxPod(&runtimeapi.SELinuxOption{Type: "t"})},
	"SELinuxOption.level":                         {"selinux_options", selinuxPod(&runtimeapi.SELinuxOption{Level: "s0"})},
	"LinuxSandboxSecurityContext.selinux_options": {"selinux_options", selinuxPod(&runtimeapi.SELinuxOption{Level: "s0"})},
}

func selinuxPod(o *runtimeapi.SELinuxOption) func(*runtimeapi.PodSandboxConfig) {
	return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SelinuxOptions = o }
}

var refusedInContainers = map[string]struct {
	word string
	set  func(*runtimeapi.ContainerConfig)
}{
	"ContainerConfig.windows":     {"windows", func(c *runtimeapi.ContainerConfig) { c.Windows = &runtimeapi.WindowsContainerConfig{} }},
	"ContainerConfig.CDI_devices": {"CDI_devices", cdi},
	"CDIDevice.name":              {"vendor.com/class=dev", cdi},
	"LinuxContainerSecurityContext.selinux_options": {"selinux_options", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1"}
	}},
	"LinuxContainerSecurityContext.apparmor": {"apparmor", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "p"}
	}},
	"LinuxContainerSecurityContext.apparmor_profile": {"apparmor", func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.ApparmorProfile = "localhost/p" }},
}

func cdi(c *runtimeapi.ContainerConfig) {
	c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/class=dev"}}
}

// TestRefusedFields: what a pod would silently lack is an InvalidArgument with
// the field's name.
func TestRefusedFields(t *testing.T) {
	i := harness.New(t)
	for field, c := range refusedInPods {
		_, err := i.TryRunPod(i.PodConfig(c.set))
		checkRefused(t, field, c.word, err)
	}
	pod := i.RunPod()
	image := i.Image(probe)
	for field, c := range refusedInContainers {
		_, err := pod.TryCreate(pod.ContainerConfig("c", image, sleeper, c.set))
		checkRefused(t, field, c.word, err)
	}
	c := pod.Create("c", image, sleeper)
	_, err := i.Runtime.UpdateContainerResources(i.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID, Windows: &runtimeapi.WindowsContainerResources{}})
	checkRefused(t, "UpdateContainerResourcesRequest.windows", "windows", err)
}

func checkRefused(t *testing.T, field, word string, err error) {
	t.Helper()
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), word) {
		t.Errorf("%s: %v; want InvalidArgument with %q", field, err, word)
	}
}

// TestRawEnvSurvivesRestart: bytes that are no text reach an exec, and a start,
// by a later daemon as well.
func TestRawEnvSurvivesRestart(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	raw := []byte("\xff\xfe=\x80")
	env := func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "RAW", Value: raw}} }
	runs := pod.Run("runs", i.Image(busybox), sleeper, env)
	created := pod.Create("created", i.Image(busybox), sleeper, env)
	i.Restart()
	created.Start()
	want := append(append([]byte("RAW="), raw...), 0)
	for name, c := range map[string]*harness.Container{"running before": runs, "started after": created} {
		if got := c.MustExec("/bin/cat", "/proc/self/environ"); !bytes.Contains([]byte(got), want) {
			t.Errorf("%s: an exec has %q", name, got)
		}
		if got := c.MustExec("/bin/cat", "/proc/1/environ"); !bytes.Contains([]byte(got), want) {
			t.Errorf("%s: the process has %q", name, got)
		}
	}
}

// TestUpdateSurvivesRestart: limits, status and what a later start uses.
func TestUpdateSurvivesRestart(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	runs, created := pod.Run("runs", i.Image(probe), sleeper), pod.Create("created", i.Image(probe), sleeper)
	for _, c := range []*harness.Container{runs, created} {
		_, err := i.Runtime.UpdateContainerResources(i.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID,
			Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 77 << 20, OomScoreAdj: 444}, Annotations: map[string]string{"note": "kept"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pod.TryCreate(runs.Config); err != nil {
		t.Errorf("the request that made the container is another one after an update: %v", err)
	}
	i.Restart()
	created.Start()
	for _, c := range []*harness.Container{runs, created} {
		equal(t, "limit in the status", c.Status().Resources.Linux.MemoryLimitInBytes, 77<<20)
		equal(t, "limit", strings.TrimSpace(readFile(t, cgroupFile(t, c, "memory", "memory.limit_in_bytes", "memory.max"))), "80740352")
		resp, err := i.Runtime.ContainerStatus(i.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(resp.Info["info"], `"kept"`) {
			t.Error("the annotation is not in the verbose status")
		}
	}
	equal(t, "oom_score_adj", strings.TrimSpace(readFile(t, filepath.Join("/proc", itoa(created.PID()), "oom_score_adj"))), "444")
}

// TestPodResourcesAreReported: what came with the pod and what was updated.
func TestPodResourcesAreReported(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 123}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 234}
	})
	_, err := i.Runtime.UpdatePodSandboxResources(i.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod.ID,
		Overhead: &runtimeapi.LinuxContainerResources{CpuShares: 345}, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 456}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		resp, err := i.Runtime.PodSandboxStatus(i.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.ID, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"123", "234", "345", "456"} {
			if !strings.Contains(resp.Info["info"], `"cpuShares":"`+want+`"`) {
				t.Errorf("the verbose status has no cpu shares of %s:\n%s", want, resp.Info["info"])
			}
		}
		i.Restart()
	}
	_, err = i.Runtime.UpdatePodSandboxResources(i.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod.ID,
		Overhead: &runtimeapi.LinuxContainerResources{CpuPeriod: 1}, Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 1}})
	checkRefused(t, "resources", "resources.cpu_quota", err)
	checkRefused(t, "overhead", "overhead.cpu_period", err)
}

// TestPodCIDRIsRecorded: the kubelet says it once; a restart does not forget it.
func TestPodCIDRIsRecorded(t *testing.T) {
	i := harness.New(t)
	_, err := i.Runtime.UpdateRuntimeConfig(i.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.77.0.0/24,fd77::/64"}}})
	if err != nil {
		t.Fatal(err)
	}
	i.Restart()
	text, err := os.ReadFile(filepath.Join(i.Root, "network", "pod-cidr"))
	if err != nil || !strings.Contains(string(text), "10.77.0.0/24") || !strings.Contains(string(text), "fd77::/64") {
		t.Errorf("the record is %s, %v", text, err)
	}
}

// TestImageVolumeSurvives: the container is started by a later daemon, after its
// volume's image was removed.
func TestImageVolumeSurvives(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	volume := i.Push("volume", imageWithFile(t))
	id := i.Pull(volume)
	c := pod.Create("c", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", Readonly: true, Image: &runtimeapi.ImageSpec{Image: id}, ImageSubPath: "data"}}
	})
	equal(t, "image_ref", c.Status().Mounts[0].Image.ImageRef, id)
	if _, err := i.Images.RemoveImage(i.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err != nil {
		t.Fatal(err)
	}
	i.Restart()
	c.Start()
	equal(t, "content", c.MustExec("/bin/cat", "/v/file"), "in the image")
}
