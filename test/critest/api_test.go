package critest_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nothing is the id of nothing.
var nothing = strings.Repeat("0", 64)

// TestIdempotence: each idempotent call on what never was, and twice, and it has
// done what it says.
func TestIdempotence(t *testing.T) {
	clause(t, "This call is idempotent, and must not return an error if")
	n := newNode(t)
	p := n.pod()
	c := p.run()
	gone := func(err error) bool { return status.Code(err) == codes.NotFound }
	containerState := func(id string) (runtimeapi.ContainerState, error) {
		r, err := n.runtime.ContainerStatus(n.ctx(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		return r.GetStatus().GetState(), err
	}
	podState := func(id string) (runtimeapi.PodSandboxState, error) {
		r, err := n.runtime.PodSandboxStatus(n.ctx(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		return r.GetStatus().GetState(), err
	}
	type target struct{ container, pod, image string }
	for _, id := range []target{{nothing, nothing, "registry.invalid/not/there:1"}, {c.id, p.id, n.image}} {
		for _, call := range []struct {
			name string
			do   func() error
			done func() bool
		}{
			{"StopContainer", func() error {
				_, err := n.runtime.StopContainer(n.ctx(), &runtimeapi.StopContainerRequest{ContainerId: id.container})
				return err
			}, func() bool {
				s, err := containerState(id.container)
				return gone(err) || s == runtimeapi.ContainerState_CONTAINER_EXITED
			}},
			{"RemoveContainer", func() error {
				_, err := n.runtime.RemoveContainer(n.ctx(), &runtimeapi.RemoveContainerRequest{ContainerId: id.container})
				return err
			}, func() bool { _, err := containerState(id.container); return gone(err) }},
			{"StopPodSandbox", func() error {
				_, err := n.runtime.StopPodSandbox(n.ctx(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id.pod})
				return err
			}, func() bool {
				s, err := podState(id.pod)
				return gone(err) || s == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}},
			{"RemovePodSandbox", func() error {
				_, err := n.runtime.RemovePodSandbox(n.ctx(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id.pod})
				return err
			}, func() bool { _, err := podState(id.pod); return gone(err) }},
			{"RemoveImage", func() error { return n.removeImage(id.image) }, func() bool { return n.imageStatus(id.image) == nil }},
		} {
			for time := range 2 {
				if err := call.do(); err != nil {
					t.Errorf("%s of %v, time %d: %v", call.name, id, time+1, err)
				}
				if !call.done() {
					t.Errorf("%s of %v, time %d: it has no effect", call.name, id, time+1)
				}
			}
		}
	}
}

// TestConcurrentStops: the shortest grace wins, and all of them succeed.
func TestConcurrentStops(t *testing.T) {
	clause(t, "StopContainer stops a running container with a grace period (i.e., timeout).")
	n := newNode(t)
	c := n.pod().run(script("trap '' TERM; while :; do sleep 1; done"))
	var wg sync.WaitGroup
	began := time.Now()
	for _, grace := range []int64{40, 30, 1} {
		wg.Go(func() {
			if _, err := n.runtime.StopContainer(n.ctx(), &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: grace}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > min(harness.Long(20*time.Second), 28*time.Second) {
		t.Errorf("it took %v", took)
	}
	equal(t, "exit code", c.status().ExitCode, 137)
}

// TestConcurrentPodStops: stops and removals of one pod at a time all succeed.
func TestConcurrentPodStops(t *testing.T) {
	clause(t, "multiple StopPodSandbox calls are expected.")
	n := newNode(t)
	p := n.pod()
	c := p.run(script("trap '' TERM; while :; do sleep 1; done"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := n.runtime.StopPodSandbox(n.ctx(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	equal(t, "state of the pod", p.status().State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	equal(t, "state of the container", c.status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
	for range 4 {
		wg.Go(func() {
			if _, err := n.runtime.RemovePodSandbox(n.ctx(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := n.runtime.PodSandboxStatus(n.ctx(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	hasCode(t, "status of the pod", err, codes.NotFound)
}

// TestRemoveWhileCreating: one of the two comes first; nothing hangs and nothing
// is left.
func TestRemoveWhileCreating(t *testing.T) {
	clause(t, "RemovePodSandbox removes the sandbox. If there are any running containers")
	n := newNode(t)
	for range 5 {
		p := n.pod()
		var wg sync.WaitGroup
		wg.Go(func() { p.try() }) // it may fail: its pod goes away
		wg.Go(func() {
			if _, err := n.runtime.RemovePodSandbox(n.ctx(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if _, err := n.runtime.RemovePodSandbox(n.ctx(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Error(err)
		}
		list, err := n.runtime.ListContainers(n.ctx(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "containers left", len(list.Containers), 0)
	}
}

// TestNotFound: what the kubelet tells apart by its code.
func TestNotFound(t *testing.T) {
	clause(t, "ContainerStatus returns status of the container. If the container is not")
	n := newNode(t)
	for name, call := range map[string]func() error{
		"ContainerStatus": func() error {
			_, err := n.runtime.ContainerStatus(n.ctx(), &runtimeapi.ContainerStatusRequest{ContainerId: nothing})
			return err
		},
		"PodSandboxStatus": func() error {
			_, err := n.runtime.PodSandboxStatus(n.ctx(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: nothing})
			return err
		},
		"StartContainer": func() error {
			_, err := n.runtime.StartContainer(n.ctx(), &runtimeapi.StartContainerRequest{ContainerId: nothing})
			return err
		},
		"ExecSync": func() error {
			_, err := n.runtime.ExecSync(n.ctx(), &runtimeapi.ExecSyncRequest{ContainerId: nothing, Cmd: []string{"true"}})
			return err
		},
		"ReopenContainerLog": func() error {
			_, err := n.runtime.ReopenContainerLog(n.ctx(), &runtimeapi.ReopenContainerLogRequest{ContainerId: nothing})
			return err
		},
		"CreateContainer": func() error {
			_, err := n.runtime.CreateContainer(n.ctx(), &runtimeapi.CreateContainerRequest{PodSandboxId: nothing, Config: &runtimeapi.ContainerConfig{
				Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: n.image}}, SandboxConfig: n.podConfig()})
			return err
		},
	} {
		hasCode(t, name, call(), codes.NotFound)
	}
}

func TestStartTwice(t *testing.T) {
	clause(t, "StartContainer starts the container.")
	n := newNode(t)
	c := n.pod().run()
	if err := c.start(); err == nil {
		t.Error("a running container was started")
	}
	c.stop()
	if err := c.start(); err == nil {
		t.Error("an exited container was started")
	}
}

func TestVersion(t *testing.T) {
	clause(t, "Version returns the runtime name, runtime version, and runtime API version.")
	n := newNode(t)
	for _, asked := range []string{"", "0.1.0", "v1"} {
		v, err := n.runtime.Version(n.ctx(), &runtimeapi.VersionRequest{Version: asked})
		if err != nil {
			t.Fatal(err)
		}
		if v.Version == "" || v.RuntimeName == "" || v.RuntimeVersion == "" || v.RuntimeApiVersion == "" {
			t.Errorf("a part is empty: %v", v)
		}
	}
}

// TestVerbose: info only when it is asked for.
func TestVerbose(t *testing.T) {
	clause(t, "Verbose indicates whether to return extra information about the")
	n := newNode(t)
	p := n.pod()
	c := p.run()
	for _, verbose := range []bool{false, true} {
		ps, err1 := n.runtime.PodSandboxStatus(n.ctx(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: verbose})
		cs, err2 := n.runtime.ContainerStatus(n.ctx(), &runtimeapi.ContainerStatusRequest{ContainerId: c.id, Verbose: verbose})
		ss, err3 := n.runtime.Status(n.ctx(), &runtimeapi.StatusRequest{Verbose: verbose})
		is, err4 := n.images.ImageStatus(n.ctx(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: n.image}, Verbose: verbose})
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		for what, info := range map[string]map[string]string{"pod": ps.Info, "container": cs.Info, "status": ss.Info, "image": is.Info} {
			equal(t, fmt.Sprint("info of ", what, ", verbose ", verbose), len(info) > 0, verbose)
		}
	}
}

func TestRuntimeConfig(t *testing.T) {
	clause(t, "RuntimeConfig returns configuration information of the runtime.")
	n := newNode(t)
	r, err := n.runtime.RuntimeConfig(n.ctx(), &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, known := runtimeapi.CgroupDriver_name[int32(r.GetLinux().GetCgroupDriver())]; !known || r.Linux == nil {
		t.Errorf("the cgroup driver is %v", r.GetLinux())
	}
}

func TestUpdateRuntimeConfig(t *testing.T) {
	clause(t, "UpdateRuntimeConfig updates the runtime configuration based on the given request.")
	n := newNode(t)
	set := func(cidr string) error {
		_, err := n.runtime.UpdateRuntimeConfig(n.ctx(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	for _, good := range []string{"", "10.244.3.0/24", "10.244.3.0/24", "10.244.3.0/24,fd00:1::/64"} {
		if err := set(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	strict(t, "a range that is none", set("10.244.3.0/99"), "pod_cidr")
}

// TestCheckpointIsWholeOrRefused: a runtime that does not do it says so and
// writes nothing.
func TestCheckpointIsWholeOrRefused(t *testing.T) {
	clause(t, "CheckpointContainer checkpoints a container")
	n := newNode(t)
	p := n.pod()
	c := p.run()
	_, err := n.runtime.CheckpointContainer(n.ctx(), &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: n.dir + "/checkpoint.tar", Timeout: 10})
	if _, missing := os.Stat(n.dir + "/checkpoint.tar"); (err == nil) != (missing == nil) {
		t.Errorf("CheckpointContainer: %v; the file: %v", err, missing)
	}
	strict(t, "CheckpointContainer", err, "CheckpointContainer")
	_, err = n.runtime.CheckpointPod(n.ctx(), &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: n.dir, ContainerIds: []string{c.id}, Options: map[string]string{"no-such-option": "x"}})
	refused(t, "CheckpointPod with an unknown option", err)
	_, err = n.runtime.RestorePod(n.ctx(), &runtimeapi.RestorePodRequest{CheckpointPath: n.dir + "/nothing", Config: n.podConfig(), RuntimeHandler: "nobody-has-this",
		Options: map[string]string{"no-such-option": "x"}, ContainerConfigs: []*runtimeapi.ContainerConfig{c.config}})
	refused(t, "RestorePod from nothing", err)
	equal(t, "state of the container", c.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestImages(t *testing.T) {
	clause(t, "ImageStatus returns the status of the image. If the image is not")
	n := newNode(t)
	find := func(ref string) *runtimeapi.Image {
		r, err := n.images.ImageStatus(n.ctx(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		return r.Image
	}
	img := find(n.image)
	equal(t, "id", img.GetId(), n.imageID)
	if img.GetSize() == 0 || len(img.GetRepoTags())+len(img.GetRepoDigests()) == 0 {
		t.Errorf("the image is %v", img)
	}
	for _, ref := range append([]string{n.imageID}, img.RepoDigests...) {
		equal(t, "id by "+ref, find(ref).GetId(), n.imageID)
	}
	if other := find("registry.invalid/not/there:1"); other != nil {
		t.Errorf("an image that is not there is %v", other)
	}
}

// TestImageFilter: a list has what the filter names, by any of its names.
func TestImageFilter(t *testing.T) {
	clause(t, "Filter to list images.")
	n := newNode(t)
	other := n.pull(n.registry().push("other", n.small("file")))
	for ref, want := range map[string]string{n.image: n.imageID, n.imageID: n.imageID, other: other, "registry.invalid/not/there:1": ""} {
		list, err := n.images.ListImages(n.ctx(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: ref}}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, img := range list.Images {
			got = append(got, img.Id)
		}
		equal(t, "images by "+ref, strings.Join(got, " "), want)
	}
}
