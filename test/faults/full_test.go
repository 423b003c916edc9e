package faults_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDiskFull fills the disk of records, images and state to within a few pages,
// each time a page less, so that every write is the one that fails at some time.
// What fails says so and leaves nothing, what runs goes on, and with space all is
// as before.
func TestDiskFull(t *testing.T) {
	disk, err := os.MkdirTemp("", "cbfull")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("full", disk, "tmpfs", 0, "size=64m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		os.Remove(disk)
	})
	i := harness.New(t, func(i *harness.Instance) {
		i.Root = filepath.Join(disk, "root") // the state directory is elsewhere: its name is the instance's
	})
	image := i.Image("probe")
	live := i.RunPod().Run("live", image, []string{"/bin/workload", "count", "1"})
	live.WaitOutput("3\n")
	pid := live.PID()
	var failed, worked int
	for pages := range 12 {
		fill(t, disk, pages)
		pod, err := i.TryRunPod(i.PodConfig())
		if err == nil {
			var c *harness.Container
			if c, err = pod.TryCreate(pod.ContainerConfig("c", image, []string{"/bin/workload", "on-term", "7"})); err == nil {
				err = c.TryStart()
			}
		}
		if err != nil {
			failed++
			if text := err.Error(); !strings.Contains(text, "no space left on device") {
				t.Errorf("with %d pages left: %v", pages, err)
			}
		} else {
			worked++
		}
		if pod != nil {
			i.Runtime.StopPodSandbox(i.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.ID}) // may not be recorded
		}
		os.Remove(filepath.Join(disk, "filler"))
		i.Kill()
		i.Start() // which reads what was written
		if bad := names(filepath.Join(i.Root, "pods", "quarantine")) + names(filepath.Join(i.Root, "containers", "quarantine")); bad > 0 {
			t.Fatalf("with %d pages left: %d records are damaged", pages, bad)
		}
		if pod != nil {
			pod.Stop()
			pod.Remove()
		}
		if left := names(filepath.Join(i.Root, "pods")); left != 1 {
			t.Errorf("with %d pages left: %d pods have a record", pages, left)
		}
	}
	t.Logf("%d tries failed, %d worked", failed, worked)
	if failed == 0 || worked == 0 {
		t.Errorf("%d tries failed, %d worked: want some of each", failed, worked)
	}
	if got := live.PID(); got != pid {
		t.Errorf("the container is process %d, it was %d", got, pid)
	}
	fill(t, disk, 1) // an exit that cannot be written is written when it can
	short := make(chan *runtimeapi.ContainerStatus, 1)
	live.Stop(30)
	go func() { short <- live.WaitExit() }()
	if s := <-short; s.ExitCode != 0 {
		t.Errorf("exit code %d of what ended while the disk was full", s.ExitCode)
	}
	os.Remove(filepath.Join(disk, "filler"))
	i.Kill()
	i.Start()
	if s := live.Status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 0 {
		t.Errorf("after a restart: %v, code %d", s.State, s.ExitCode)
	}
	whole(t, live.Output("stdout"))
}

// fill leaves that many pages of the disk free.
func fill(t *testing.T, disk string, pages int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(disk, "filler"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, (int64(st.Bfree)-int64(pages))*st.Bsize); err != nil {
		t.Fatal(err)
	}
}

// names counts what is in a directory.
func names(dir string) int {
	entries, _ := os.ReadDir(dir)
	return len(entries)
}
