package kubelet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

// TestReboot takes everything away that a reboot takes: all processes at once,
// what was on tmpfs, namespaces, cgroups and rules. The pods come back from what
// is on disk, without a registry, and know that they ran before.
func TestReboot(t *testing.T) {
	n := newNode(t, setup{})
	dir, host := n.hostDir(t)
	memory := v1.Volume{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}}
	disk := v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
	writer := sh("writer", "was=$(echo $(ls /disk) and $(ls /memory)); touch /memory/m /disk/d; echo $was >>/host/found; sleep 100000")
	for _, v := range []v1.Volume{memory, disk, host} {
		writer = mounted(writer, v.Name, "/"+v.Name)
	}
	pods := []*Pod{
		n.run(t, v1.PodSpec{Volumes: []v1.Volume{memory, disk, host}, Containers: []v1.Container{writer}}),
		n.run(t, v1.PodSpec{Containers: []v1.Container{serving(8080, "back")}}),
	}
	before := map[*Pod]*v1.Pod{}
	for _, p := range pods {
		before[p] = p.ready()
	}
	n.wait(t, "what the first start found", func() bool { return len(found(dir)) == 1 })
	n.Registry().BasicAuth(registryUser, "another one") // an image that is pulled now is missed
	n.reboot(t)
	for _, p := range pods {
		for _, c := range before[p].Spec.Containers {
			pod := p.until("another start", func(pod *v1.Pod) bool {
				return isReady(pod) && containerID(pod, c.Name) != containerID(before[p], c.Name)
			})
			s := status(pod, c.Name)
			equal(t, "restarts", s.RestartCount, 1)
			if last := s.LastTerminationState.Terminated; last == nil || last.ExitCode == 0 {
				t.Errorf("the kubelet tells of the container before the reboot: %+v", s.LastTerminationState)
			}
		}
	}
	equal(t, "page", page(t, n.Node.Client(), "http://"+pods[1].get().Status.PodIP+":8080"), "back")
	n.wait(t, "what the second start found", func() bool { return len(found(dir)) == 2 })
	equal(t, "the second start found", found(dir)[1], "d and")
}

// found lists what each start found in its volumes.
func found(dir string) []string {
	text, _ := os.ReadFile(filepath.Join(dir, "found"))
	return strings.Split(string(text), "\n")[:strings.Count(string(text), "\n")]
}

func (n *Node) reboot(t *testing.T) {
	t.Helper()
	n.stopKubelet(t, syscall.SIGKILL)
	n.stopRuntime(t, syscall.SIGKILL)
	n.killAll(t)
	for _, m := range append(n.mounts(), filepath.Join(n.Dir, "root")) {
		syscall.Unmount(m, syscall.MNT_DETACH)
	}
	pins, _ := filepath.Glob("/run/netns/" + n.Name + "-*")
	for _, pin := range pins {
		syscall.Unmount(pin, syscall.MNT_DETACH)
		os.Remove(pin)
	}
	n.removeCgroup(t)
	n.makeCgroup(t)
	state, _ := filepath.Glob(filepath.Join(n.State, "*"))
	for _, name := range state {
		if err := removeMounted(name); err != nil {
			t.Fatalf("cannot remove what is on tmpfs: %v", err)
		}
	}
	if err := n.Node.Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }); err != nil {
		t.Fatalf("cannot flush the node's rules: %v", err)
	}
	n.startRuntimeAgain(t)
	n.startKubelet(t, kubeletBinary(t))
}

// removeMounted removes a directory with what is mounted in it.
func removeMounted(dir string) error {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4]+"/", dir+"/") {
			syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	return os.RemoveAll(dir)
}

// killAll kills, until none is left, the processes in the pods' cgroups and
// those whose command line names the node's directories.
func (n *Node) killAll(t *testing.T) {
	t.Helper()
	n.wait(t, "all processes to be gone", func() bool {
		pids := n.processes()
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
}

func (n *Node) processes() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		groups, _ := os.ReadFile(dir + "/cgroup")
		args, _ := os.ReadFile(dir + "/cmdline")
		mine := strings.Contains(string(groups), n.group(n.cgroup)) || strings.Contains(string(args), n.State+"/")
		if mine && harness.Alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
