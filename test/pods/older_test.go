package pods_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// masked is one of the paths that the kubelet has masked.
var masked = []string{"/proc/keys"}

// TestAsOnAnOlderKernel switches off what Linux 6.1 lacks: the pod is the same.
func TestAsOnAnOlderKernel(t *testing.T) {
	i := harness.New(t, harness.Env(mount.Without+"=lowerdir+,volatile,clone-detached,pidns"))
	pod := i.RunPod(namespaces(modePod, modePod, modePod))
	a := pod.Run("a", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.MaskedPaths = masked }))
	volume := i.Pull(i.Push("volume", imageWithFile(t)))
	b := pod.Run("b", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Tty = true
		for path, part := range map[string]string{"/d": "data", "/f": "data/file"} {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{ContainerPath: path, Readonly: true, Image: &runtimeapi.ImageSpec{Image: volume}, ImageSubPath: part})
		}
	})
	equal(t, "parts of an image", b.MustExec("cat", "/d/file", "/f"), "in the imagein the image")
	if !holdsMountNamespace(t, i.PID()) {
		t.Fatal("serve holds no mount namespace: nothing is switched off")
	}
	a.MustExec("sh", "-c", "echo shared >/dev/shm/file")
	equal(t, "b's /dev/shm/file", b.MustExec("cat", "/dev/shm/file"), "shared\n")
	equal(t, "process 1", b.MustExec("cat", "/proc/1/comm"), "cri-box-init\n")
	if ps := a.MustExec("ps"); strings.Count(ps, "sleep-forever") != 2 {
		t.Errorf("a sees\n%s", ps)
	}
	equal(t, "masked file", a.MustExec("cat", "/proc/keys"), "")
	if out := b.MustExec("ls", "-l", "/dev/console"); !strings.Contains(out, "136,") {
		t.Errorf("/dev/console is %s", out)
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(harness.Init(a.PID())), "root/proc/1")); err == nil {
		t.Error("through the init's root the containers see a procfs without masks")
	}
}

// TestTargetAsOnAnOlderKernel is a debug container in another's PID namespace.
func TestTargetAsOnAnOlderKernel(t *testing.T) {
	i := harness.New(t, harness.Env(mount.Without+"=clone-detached,pidns"))
	pod := i.RunPod()
	target := pod.Run("target", i.Image(busybox), sleeper)
	debug := pod.Run("debug", i.Image(busybox), []string{"sleep", "1000"}, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: target.ID}
		s.MaskedPaths = masked
	}))
	equal(t, "process 1", debug.MustExec("cat", "/proc/1/comm"), "workload\n")
	equal(t, "masked file", debug.MustExec("cat", "/proc/keys"), "")
}

// TestEndWithoutKeeper: a container ends, and is reaped by another, while no keeper
// is there. Its exit code is known where the kernel keeps it.
func TestEndWithoutKeeper(t *testing.T) {
	for name, without := range map[string]string{"as it is": "", "on an older kernel": "pidfd-info"} {
		t.Run(name, func(t *testing.T) {
			i := harness.New(t, harness.Env(mount.Without+"="+without))
			c := i.RunPod().Run("c", i.Image(busybox), sleeper)
			pid := c.PID()
			i.Halt(i.PID()) // it would start another keeper
			i.KillKeeper()
			signal(t, pid, unix.SIGKILL)
			i.Wait("the container's end", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
			signal(t, i.PID(), unix.SIGCONT)
			status := c.WaitExit()
			if without == "" && harness.KeepsExits() {
				equal(t, "exit code", status.ExitCode, 137)
				return
			}
			equal(t, "exit code", status.ExitCode, 255)
			equal(t, "reason", status.Reason, "Unknown")
			if !strings.Contains(status.Message, "the keeper that was its parent is dead") {
				t.Errorf("the message is %q", status.Message)
			}
		})
	}
}

func signal(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

func holdsMountNamespace(t *testing.T, pid int) bool {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if link, _ := os.Readlink(filepath.Join(dir, e.Name())); strings.HasPrefix(link, "mnt:[") {
			return true
		}
	}
	return false
}
