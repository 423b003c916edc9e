package faults_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// why is what `cri-box why` says of a pod.
func why(i *harness.Instance, pod string) string {
	out, _ := i.Command("why", pod, "--state", i.State).CombinedOutput()
	return string(out)
}

// says wants `why` to say all of it about a pod.
func says(i *harness.Instance, pod string, want ...string) {
	i.T.Helper()
	i.Wait("`why` to say where "+pod+" stands", func() bool {
		said := why(i, pod)
		return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(said, w) })
	})
}

// undisturbed wants a pod of another to come up and go down within the time in
// which it must not have waited for what hangs (30 s).
func undisturbed(t *testing.T, i *harness.Instance, image string) {
	t.Helper()
	began := time.Now()
	pod := i.RunPod()
	c := pod.Run("other", image, []string{"/bin/workload", "sleep-forever"})
	c.MustExec("/bin/workload", "exit", "0")
	pod.Stop()
	pod.Remove()
	if took := time.Since(began); took > harness.Long(15*time.Second) {
		t.Errorf("another pod took %v", took)
	}
}

// TestDeadVolume: a container whose volume does not answer says so, with the path,
// and one whose process hangs in it says which; nobody else notices, a start of
// serve neither.
func TestDeadVolume(t *testing.T) {
	t.Parallel()
	dead := newDeadVolume(t)
	i := harness.New(t, func(i *harness.Instance) { i.Build = dead.serve })
	t.Cleanup(dead.revive) // before the harness cleans up
	image := i.Image("busybox")
	path := filepath.Join(dead.Dir, "volume", "data")
	pod, hung := i.RunPod(), i.RunPod()
	spec := pod.ContainerConfig("c", image, []string{"/bin/workload", "sleep-forever"}, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: path, ContainerPath: "/data"})
	})
	created := make(chan error, 1)
	go func() { _, err := pod.TryCreate(spec); created <- err }()
	i.Wait("somebody to wait for the volume", dead.asked.Load)
	stuck := hung.Run("stuck", image, []string{"/bin/cat", "/data/file"}, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: dead.Dir, ContainerPath: "/data"})
	})
	i.Wait("the process to hang", func() bool { return strings.Contains(harness.Describe(stuck.PID()), "state D") })
	stopped := make(chan error, 1)
	go func() {
		_, err := i.Runtime.StopPodSandbox(i.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: hung.ID})
		stopped <- err
	}()
	says(i, pod.Config.Metadata.Name, `at step "prepare" for`, "waits for the file system of "+path+" to answer, since ", "next: see to its server")
	says(i, hung.Config.Metadata.Name, `at step "kill containers" for`,
		fmt.Sprintf("waits for process %d of container %s to end, since ", stuck.PID(), stuck.ID), fmt.Sprintf("next: if it was killed and stays, it hangs in the kernel: /proc/%d/stack", stuck.PID()))
	undisturbed(t, i, image)
	if err := <-created; err == nil || !strings.Contains(err.Error(), "cannot open "+path+": its file system does not answer") {
		t.Errorf("the container with a dead volume: %v", err)
	}
	if err := <-stopped; err == nil || !strings.Contains(err.Error(), "it hangs in the kernel") {
		t.Errorf("the pod with a process that hangs: %v", err)
	}
	i.Kill()
	began := time.Now()
	i.Start()
	if took := time.Since(began); took > harness.Long(15*time.Second) {
		t.Errorf("serve was ready after %v", took)
	}
	undisturbed(t, i, image)
	dead.revive()
	hung.Stop()
	hung.Remove()
}

// TestHungPlugin: a pod whose ADD hangs says where it stands; others come up.
func TestHungPlugin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	plugin := "#!/bin/sh\nwhile [ \"$CNI_COMMAND\" = ADD ] && [ -e " + gate + " ]; do case \"$CNI_ARGS\" in *K8S_POD_NAME=hangs*) sleep 0.05;; *) break;; esac; done\nexec /usr/lib/cni/ptp\n"
	conf := `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"gated","ipam":{"type":"host-local","dataDir":"` + dir + `/ipam","ranges":[[{"subnet":"10.89.0.0/24"}]]}}]}`
	for name, text := range map[string]string{"gated": plugin, "10-pods.conflist": conf, "gate": ""} {
		if err := supervise.WriteScript(filepath.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	i := harness.New(t, harness.Args("--set", "network.mode=cni", "--set", "network.cni.conf_dir="+dir, "--set", "network.cni.bin_dirs=['"+dir+"', '/usr/lib/cni']"))
	image := i.Image("probe")
	config := i.PodConfig(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "hangs" })
	up := make(chan error, 1)
	go func() { _, err := i.TryRunPod(config); up <- err }()
	says(i, "hangs", `at step "attach network" for`, "waits for the plugin "+filepath.Join(dir, "gated")+" (ADD, process ", "next: see the plugin's own log")
	undisturbed(t, i, image)
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	if err := <-up; err != nil {
		t.Errorf("the pod, once its plugin goes on: %v", err)
	}
}
