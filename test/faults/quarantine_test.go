package faults_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// spoil is every way in which a record can be bad.
var spoil = map[string]func(good []byte) []byte{
	"corrupt":   func(b []byte) []byte { b = append([]byte{}, b...); b[len(b)/2] ^= 1; return b },
	"truncated": func(b []byte) []byte { return b[:len(b)/2] },
	"empty":     func([]byte) []byte { return nil },
	"of the future": func(b []byte) []byte {
		return regexp.MustCompile(`^(cri-box \w+) 1 `).ReplaceAll(b, []byte("$1 99 "))
	},
}

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

// TestOtherFilesSpoilt: a lease or the image database that cannot be read is set
// aside and named; the pods live.
func TestOtherFilesSpoilt(t *testing.T) {
	i := harness.New(t)
	image := i.Image("probe")
	for how, change := range spoil {
		t.Run(how, func(t *testing.T) {
			pod := i.RunPod()
			c := pod.Run("c", image, []string{"/bin/workload", "sleep-forever"})
			pid := c.PID()
			i.Kill()
			lease, images := filepath.Join(i.State, "ipam", pod.ID), filepath.Join(i.Root, "images.db")
			rewrite(t, lease, func(b []byte) []byte { return append(change(b), "garbage"...) })
			rewrite(t, images, func(b []byte) []byte { return append([]byte("garbage"), change(b)...) })
			i.Start()
			if !named(t, i, lease+".bad") || !named(t, i, images+".broken") {
				t.Error("Status does not name what was set aside")
			}
			if got := c.PID(); got != pid || !harness.Alive(pid) {
				t.Errorf("the container is process %d, it was %d", got, pid)
			}
			pod.Stop()
			pod.Remove()
			os.Remove(lease + ".bad")
			os.Remove(images + ".broken")
			i.Pull(image)
		})
	}
}

// TestStrangers: what has our name and no record is gone after a start.
func TestStrangers(t *testing.T) {
	i := harness.New(t)
	live := i.RunPod().Run("live", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
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
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + i.Name)
	for _, g := range groups {
		plant(filepath.Join(g, id, id))
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
	if len(groups) == 0 || !harness.Alive(live.PID()) {
		t.Errorf("groups %q, live process %d", groups, live.PID())
	}
}
