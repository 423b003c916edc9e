package faults_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// spoil is every way in which a record can be bad, with all the changes in it.
var spoil = map[string]func(good []byte) []byte{
	"corrupt":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"id"`), []byte(`"iD"`)) },
	"truncated": truncate,
	"empty":     func([]byte) []byte { return nil },
	"of the future": func(b []byte) []byte {
		return regexp.MustCompile(`(?m)^(cri-box \w+) 1 `).ReplaceAll(b, []byte("$1 99 "))
	},
}

// truncate leaves a record without its first entry's end, and half of another file.
func truncate(b []byte) []byte {
	if end := bytes.Index(b, []byte("\n}")); end >= 0 {
		return b[:end]
	}
	return b[:len(b)/2]
}

// TestTornRecord: of a change that was not written whole the one before holds, as if
// serve had been killed a moment earlier.
func TestTornRecord(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	ended := pod.Run("ended", i.Image("probe"), []string{"/bin/workload", "exit", "3"})
	ended.WaitExit()
	stopped := i.RunPod()
	stopped.Stop()
	pid := c.PID()
	i.Kill()
	for _, dir := range []string{"pods/" + stopped.ID, "containers/" + c.ID, "containers/" + ended.ID} {
		rewrite(t, filepath.Join(i.Root, dir, "record.json"), tear)
	}
	i.Start()
	// Whether what it had is still there is a matter of the moment; another stop ends it.
	stopped.Stop()
	if s := stopped.Status(); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod that was stopped is %v", s.State)
	}
	if s := c.Status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || c.PID() != pid || !harness.Alive(pid) {
		t.Errorf("the container is %v, process %d, it was %d", s.State, c.PID(), pid)
	}
	if s := ended.Status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 {
		t.Errorf("what ended is %v, exit code %d", s.State, s.ExitCode)
	}
	for _, p := range []*harness.Pod{pod, stopped} {
		p.Stop()
		p.Remove()
	}
}

func tear(b []byte) []byte { return b[:len(b)-1] }

// TestQuarantine: one bad record is one bad pod or container. It is named, what
// it had on the host is gone, and all others live.
func TestQuarantine(t *testing.T) {
	i := harness.New(t)
	bystander := i.RunPod().Run("bystander", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	pid := bystander.PID()
	for _, kind := range []string{"pods", "containers"} {
		for how, change := range spoil {
			t.Run(kind+" "+how, func(t *testing.T) {
				quarantine(t, i, kind, func(path, _ string) { rewrite(t, path, change) })
			})
		}
		t.Run(kind+" in the wrong place", func(t *testing.T) {
			quarantine(t, i, kind, func(path, other string) {
				b, err := os.ReadFile(other)
				if err != nil {
					t.Fatal(err)
				}
				rewrite(t, path, func([]byte) []byte { return b })
			})
		})
	}
	t.Run("pods without their end", func(t *testing.T) {
		quarantine(t, i, "pods", func(path, _ string) { rewrite(t, path, tear) })
	})
	if got := bystander.PID(); got != pid || !harness.Alive(pid) {
		t.Errorf("the bystander is process %d, it was %d", got, pid)
	}
}

// quarantine spoils the record of a pod or of its container, and looks at what
// the next serve makes of it. other is the record of another, which is good.
func quarantine(t *testing.T, i *harness.Instance, kind string, spoil func(path, other string)) {
	pod, second := i.RunPod(), i.RunPod()
	c := pod.Run("c", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	d := second.Run("d", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	pid, id, other := c.PID(), pod.ID, second.ID
	if kind == "containers" {
		id, other = c.ID, d.ID
	}
	i.Kill()
	place := filepath.Join(i.Root, kind)
	spoil(filepath.Join(place, id, "record.json"), filepath.Join(place, other, "record.json"))
	i.Start()
	defer os.RemoveAll(filepath.Join(place, "quarantine"))
	i.Wait("the end of what has no record", func() bool { return !harness.Alive(pid) })
	path := filepath.Join(place, "quarantine", id)
	if !named(t, i, path) {
		t.Errorf("Status does not name %s", path)
	}
	if kind == "containers" && pod.Status().State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Error("the container's pod is not ready")
	}
	pod.Stop()
	pod.Remove()
	second.Stop()
	second.Remove()
	for _, dir := range []string{filepath.Join(i.State, "pods", pod.ID), filepath.Join(i.State, "containers", c.ID), "/run/netns/" + i.Name + "-" + pod.ID[:12]} {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("left over: %s", dir)
		}
	}
}

func rewrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// named says whether Status names the path with a reason.
func named(t *testing.T, i *harness.Instance, path string) bool {
	t.Helper()
	s, err := i.Runtime.Status(i.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ Path, Why string }
	if err := json.Unmarshal([]byte(s.Info["setAside"]), &list); err != nil {
		t.Fatalf("Status says %q: %v", s.Info["setAside"], err)
	}
	for _, a := range list {
		if a.Path == path && a.Why != "" {
			return true
		}
	}
	return false
}

// TestOtherFilesSpoilt: a lease, a layer's record, a plugin's record or the image
// database that cannot be used is set aside and named; the pods live.
func TestOtherFilesSpoilt(t *testing.T) {
	i := harness.New(t)
	image := i.Image("probe")
	const nobody = "0000000000000000000000000000000000000000000000000000000000000000"
	for how, change := range spoil {
		t.Run(how, func(t *testing.T) {
			pod := i.RunPod()
			c := pod.Run("c", image, []string{"/bin/workload", "sleep-forever"})
			pid := c.PID()
			layer := layerOf(t, i)
			i.Kill()
			lease, images := filepath.Join(i.State, "ipam", pod.ID), filepath.Join(i.Root, "images.db")
			rewrite(t, lease, func(b []byte) []byte { return append(change(b), "garbage"...) })
			rewrite(t, images, func(b []byte) []byte { return append([]byte("garbage"), change(b)...) })
			rewrite(t, filepath.Join(layer, "layer.json"), func(b []byte) []byte { return change(append([]byte("garbage"), b...)) })
			attached := filepath.Join(i.Root, "network", "cni", "attached", nobody)
			if err := os.WriteFile(attached, change([]byte(`{"version":99}`)), 0o600); err != nil {
				t.Fatal(err)
			}
			i.Start()
			aside := []string{lease + ".bad", images + ".broken", attached + ".bad", filepath.Join(i.Root, "layers", "quarantine", filepath.Base(layer))}
			for _, path := range aside {
				if !named(t, i, path) {
					t.Errorf("Status does not name %s", path)
				}
			}
			if got := c.PID(); got != pid || !harness.Alive(pid) {
				t.Errorf("the container is process %d, it was %d", got, pid)
			}
			if got := c.MustExec("/bin/workload", "exit", "0"); got != "" {
				t.Errorf("the container's files: %q", got)
			}
			pod.Stop()
			pod.Remove()
			for _, path := range append(aside, filepath.Join(i.Root, "layers", "quarantine")) {
				os.RemoveAll(path)
			}
			i.Pull(image)
		})
	}
}

// layerOf is the directory of a layer.
func layerOf(t *testing.T, i *harness.Instance) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(i.Root, "layers", "sha256-*"))
	if len(found) == 0 {
		t.Fatal("there is no layer")
	}
	return found[0]
}

// TestStrangers: what has our name and no record is gone after a start.
func TestStrangers(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	live := pod.Run("live", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	own, pid := live.Group(), live.PID()
	i.Kill()
	id := strings.Repeat("0123456789abcdef", 4)
	var planted []string
	plant := func(path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		planted = append(planted, path)
	}
	plant(filepath.Join(i.State, "pods", id))
	plant(filepath.Join(i.State, "containers", id))
	plant(filepath.Join(i.Root, "pods", id))
	plant(filepath.Join(i.Root, "containers", id))
	stranger := strings.NewReplacer(pod.ID, id, live.ID, id).Replace(filepath.Join(filepath.Base(filepath.Dir(own)), filepath.Base(own)))
	groups := ownGroups(i)
	for _, g := range groups {
		plant(filepath.Join(g, stranger))
	}
	pin := "/run/netns/" + i.Name + "-" + id[:12]
	if err := os.WriteFile(pin, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	i.Start()
	for _, path := range append(planted, pin) {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("left over: %s", path)
		}
	}
	if len(groups) == 0 || !harness.Alive(pid) || live.PID() != pid {
		t.Errorf("groups %q, live process %d", groups, pid)
	}
}
