package faults_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// reboot ends all that a reboot ends, and has the next serve see another boot id.
func reboot(t *testing.T, i *harness.Instance) {
	t.Helper()
	killBoth(i)
	for _, g := range ownGroups(i) {
		i.Wait("the end of everything in "+g, func() bool { return emptied(g) })
	}
	pins, _ := filepath.Glob("/run/netns/" + i.Name + "-*")
	for _, pin := range pins {
		syscall.Unmount(pin, syscall.MNT_DETACH)
		os.Remove(pin)
	}
	entries, _ := os.ReadDir(i.State) // memory, on a node
	for _, e := range entries {
		os.RemoveAll(filepath.Join(i.State, e.Name()))
	}
	dir := t.TempDir()
	boot, serve := filepath.Join(dir, "boot_id"), filepath.Join(dir, "serve")
	script := fmt.Sprintf(`#!/bin/sh
exec unshare -m --propagation unchanged sh -c 'mount --make-rprivate /proc && mount --bind %s /proc/sys/kernel/random/boot_id && exec %s "$@"' sh "$@"
`, boot, harness.CriBox(t))
	if err := os.WriteFile(boot, []byte("00000000-1111-2222-3333-444444444444\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := supervise.WriteScript(serve, script); err != nil {
		t.Fatal(err)
	}
	i.Build = serve
	i.Start()
}

// ownGroups are the groups that hold those of the instance's pods: on v2, in each
// hierarchy of v1 (and hybrid), and systemd's slice.
func ownGroups(i *harness.Instance) []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + i.Name, "/sys/fs/cgroup/*/" + i.Name, "/sys/fs/cgroup/*.slice/*.slice/" + i.Name + ".slice"} {
		found, _ := filepath.Glob(pattern)
		all = append(all, found...)
	}
	return all
}

// emptied kills what is in a group and takes it away; true when it is gone.
func emptied(group string) bool {
	var dirs []string
	filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, text := range strings.Fields(string(procs)) {
			var pid int
			if _, err := fmt.Sscan(text, &pid); err == nil && pid > 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		os.Remove(dir)
	}
	_, err := os.Lstat(group)
	return err != nil
}

// TestReboot: pods of before are not ready, exits are known or Unknown, logs stay,
// and what plugins gave is given back.
func TestReboot(t *testing.T) {
	for _, kind := range []string{"embedded", "cni"} {
		t.Run(kind, func(t *testing.T) {
			var opts []harness.Option
			dir := t.TempDir()
			leases := filepath.Join(dir, "ipam", "pods")
			if kind == "cni" {
				conf := `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
					"ipam":{"type":"host-local","dataDir":"` + filepath.Dir(leases) + `","ranges":[[{"subnet":"10.89.0.0/24"}]]}}]}`
				if err := os.WriteFile(filepath.Join(dir, "10-pods.conflist"), []byte(conf), 0o644); err != nil {
					t.Fatal(err)
				}
				opts = append(opts, harness.Args("--set", "network.mode=cni", "--set", "network.cni.conf_dir="+dir, "--set", "network.cni.bin_dirs=['/usr/lib/cni']"))
			}
			i := harness.New(t, opts...)
			rebooted(t, i)
			if kind == "cni" { // a bridge stays
				if err := i.Node.Do(func() error { return netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}) }); err != nil {
					t.Error(err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(leases, "10.*")); len(left) > 0 {
				t.Errorf("the plugin has not got back %q", left)
			}
		})
	}
}

func rebooted(t *testing.T, i *harness.Instance) {
	image := i.Image("probe")
	pod := i.RunPod()
	runs := pod.Run("runs", image, []string{"/bin/workload", "count", "5"})
	ended := pod.Run("ended", image, []string{"/bin/workload", "exit", "9"})
	ended.WaitExit()
	runs.WaitOutput("3\n")
	created := pod.Create("created", image, []string{"/bin/workload", "exit", "0"})
	idle := i.RunPod()
	reboot(t, i)
	for _, p := range []*harness.Pod{pod, idle} {
		if s := p.Status(); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("a pod of before is %v", s.State)
		}
	}
	if s := runs.Status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.Reason != "Unknown" || s.ExitCode != 255 || !strings.Contains(s.Message, "restarted") {
		t.Errorf("what ran: %v, code %d, reason %q, message %q", s.State, s.ExitCode, s.Reason, s.Message)
	}
	if s := ended.Status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 9 {
		t.Errorf("what had ended: %v, code %d", s.State, s.ExitCode)
	}
	if err := created.TryStart(); err == nil {
		t.Error("a container of a pod of before could be started")
	}
	if !strings.Contains(runs.Output("stdout"), "3\n") {
		t.Error("the log of before is gone")
	}
	again := i.RunPod().Run("again", image, []string{"/bin/workload", "exit", "4"})
	if code := again.WaitExit().ExitCode; code != 4 {
		t.Errorf("a pod after the reboot: code %d", code)
	}
	list, err := i.Runtime.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if _, err := i.Runtime.RemovePodSandbox(i.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Error(err)
		}
	}
}
