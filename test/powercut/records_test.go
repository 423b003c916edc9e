package powercut_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// starts is how many cuts the whole daemon is started after, CRIBOX_STARTS in the
// long form.
const starts = 12

// TestDaemonPowerCut: no sync is on the way of a pod, so that after a cut its records
// are old, torn or missing. The daemon starts on whatever is left; what it lists can
// be removed, and then nothing stays but what it has set aside.
func TestDaemonPowerCut(t *testing.T) {
	n := starts
	if v, err := strconv.Atoi(os.Getenv("CRIBOX_STARTS")); err == nil {
		n = v
	}
	var mu sync.Mutex
	rec := &recorder{t: t, disk: newDisk()}
	var boss *supervise.Supervisor
	i := harness.New(t, func(i *harness.Instance) {
		boss = supervise.New(t, harness.CriBox(t))
		i.Build, rec.root = boss.Program, i.Root
		boss.Decide(func(c *supervise.Call) supervise.Answer {
			mu.Lock()
			defer mu.Unlock()
			if supervise.Calls[c.Nr] != "" && rec.note(c) {
				return supervise.Done
			}
			return supervise.GoOn
		})
	})
	made := podLives(t, i)
	boss.Decide(nil)
	mu.Lock()
	ops := rec.ops
	mu.Unlock()
	i.Build = otherBoot(t)
	r, seed := chance()
	aside, listed := 0, 0
	for k := range n {
		at := len(ops) - r.IntN(len(ops)*2/3) // the pods' part
		c := cutAt(ops[:at], r)
		wipe(t, i)
		if err := c.disk.put(i.Root); err != nil {
			t.Fatal(err)
		}
		i.Start()
		a, l, err := removable(i, made)
		if err != nil {
			t.Fatalf("seed %d: start %d, after a cut after %d of %d operations, %d of them lost: %v\nlast was %v", seed, k, at, len(ops), c.lost, err, last(ops[:at]))
		}
		aside, listed = aside+a, listed+l
	}
	wipe(t, i)
	i.Start()
	t.Logf("%d operations recorded, the daemon started after %d cuts: %d pods listed, %d records set aside", len(ops), n, listed, aside)
	if n >= 60 && (listed == 0 || aside == 0) { // of a few, chance may have it so
		t.Errorf("%d pods listed, %d records set aside: want some of each", listed, aside)
	}
}

// podLives leads pods through their lives, and all of them away in the end; it
// returns their names.
func podLives(t *testing.T, i *harness.Instance) map[string]bool {
	t.Helper()
	image, made := i.Image("probe"), map[string]bool{}
	var pods []*harness.Pod
	for k := range 4 {
		pod := i.RunPod()
		made[pod.Config.Metadata.Name] = true
		c := pod.Run("runs", image, []string{"/bin/workload", "sleep-forever"})
		pod.Run("ends", image, []string{"/bin/workload", "exit", "3"}).WaitExit()
		pod.Create("made", image, []string{"/bin/workload", "exit", "0"})
		switch k {
		case 1:
			c.Stop(0)
			pod.Stop()
		case 2:
			pod.Stop()
			pod.Remove()
			continue
		}
		pods = append(pods, pod)
	}
	for _, pod := range pods {
		pod.Stop()
		pod.Remove()
	}
	return made
}

// otherBoot starts the product as after a reboot.
func otherBoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	boot, serve := filepath.Join(dir, "boot_id"), filepath.Join(dir, "serve")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m --propagation unchanged sh -c 'mount --make-rprivate /proc && mount --bind %s /proc/sys/kernel/random/boot_id && exec %s \"$@\"' sh \"$@\"\n", boot, harness.CriBox(t))
	for path, text := range map[string]string{boot: "00000000-1111-2222-3333-444444444444\n", serve: script} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return serve
}

// wipe ends serve and keeper and empties their directories.
func wipe(t *testing.T, i *harness.Instance) {
	t.Helper()
	i.Kill()
	if pid := i.Keeper(); pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
		i.Wait("the keeper's end", func() bool { return !harness.Alive(pid) })
	}
	for _, dir := range []string{i.State, i.Root} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// removable wants of a daemon that has started that no pod of before is ready, that
// each can be removed, that nothing but what was set aside stays, and that a new one
// comes up. It counts records set aside, and pods that were listed.
func removable(i *harness.Instance, made map[string]bool) (aside, listed int, err error) {
	pods, err := i.Runtime.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return 0, 0, err
	}
	for _, p := range pods.Items {
		if p.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || !made[p.Metadata.Name] {
			return 0, 0, fmt.Errorf("pod %s is %v", p.Metadata.Name, p.State)
		}
		if _, err := i.Runtime.RemovePodSandbox(i.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return 0, 0, err
		}
	}
	for _, kind := range []string{"pods", "containers"} {
		entries, err := os.ReadDir(filepath.Join(i.Root, kind))
		if err != nil && !os.IsNotExist(err) {
			return 0, 0, err
		}
		for _, e := range entries {
			if e.Name() != "quarantine" {
				return 0, 0, fmt.Errorf("left over: %s/%s", kind, e.Name())
			}
		}
		bad, _ := os.ReadDir(filepath.Join(i.Root, kind, "quarantine"))
		aside += len(bad)
	}
	pod, err := i.TryRunPod(i.PodConfig())
	if err == nil {
		pod.Stop()
		pod.Remove()
	}
	return aside, len(pods.Items), err
}
