package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/cmd/cri-box/explain"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestByHand runs the script that `explain --shell` prints, and compares what it
// made with the original: namespaces, mounts, capabilities, limits, addresses, and
// the page that it serves to those outside.
func TestByHand(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Metadata.Name, c.Hostname = "original", "original"
		c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	})
	image := i.Image(busybox)
	pod.Run("web", image, []string{"httpd", "-f", "-p", "80", "-h", "/etc"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 48 << 20, CpuQuota: 20000, CpuPeriod: 100000, CpuShares: 512}
		c.Linux.SecurityContext.MaskedPaths = []string{"/proc/kcore", "/sys/firmware", "/proc/acpi"}
		c.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/sys", "/proc/bus"}
		c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"MKNOD", "NET_RAW"}}
	})
	original := facts(t, must(i, "explain", "-o", "json", "original"))
	text := must(i, "explain", "--shell", "original")
	pod.Remove() // its address and port are the copy's

	copied := runByHand(t, i, text)
	ownWorld(t, copied, original.Pod.Node)
	equalSets(t, "mounts", mountTexts(original.Containers[0].Mounts), mountTexts(copied.Mounts))
	equalSets(t, "capabilities", original.Containers[0].Capabilities, copied.Capabilities)
	if original.Containers[0].User != copied.User {
		t.Errorf("user %q, want %q", copied.User, original.Containers[0].User)
	}
	for dir, files := range original.Containers[0].Ration {
		for file, want := range files {
			if got := copied.Ration[dir][file]; got != want {
				t.Errorf("%s/%s is %q, want %q", dir, file, got, want)
			}
		}
	}
	var page string
	i.Wait("the page", func() bool {
		resp, err := i.Outside.Client().Get("http://" + harness.NodeIPv4 + ":8080/hostname")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		page = strings.TrimSpace(string(b))
		return err == nil
	})
	if page != "original" {
		t.Errorf("the page is %q", page)
	}
}

func facts(t *testing.T, text string) (f explain.Facts) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// runByHand runs the script in the node's network namespace, waits for the program
// that it becomes, and looks at that as explain does.
func runByHand(t *testing.T, i *harness.Instance, text string) *explain.Container {
	t.Helper()
	name := i.Name + "-by-hand"
	work := t.TempDir()
	path := filepath.Join(work, "script")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/bash", path)
	cmd.Env = append(os.Environ(), "NAME="+name, "WORK="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := i.Node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { undoByHand(t, i, cmd, name, ended) })
	pid := 0
	i.Wait("the program", func() bool {
		select {
		case <-ended:
			t.Fatalf("the script ended: %s", said.String())
		default:
		}
		for _, child := range harness.Children(cmd.Process.Pid) {
			if exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && strings.TrimSpace(string(exe)) == "httpd" {
				pid = child
			}
		}
		return pid != 0
	})
	f := &explain.Facts{Containers: []explain.Container{{Name: "copy", PID: pid}}}
	f.Complete()
	return &f.Containers[0]
}

// undoByHand ends what the script made.
func undoByHand(t *testing.T, i *harness.Instance, cmd *exec.Cmd, name string, ended chan struct{}) {
	children := harness.Children(cmd.Process.Pid)
	for _, pid := range children {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-ended
	i.Wait("the end of what was made by hand", func() bool { return !slices.ContainsFunc(children, harness.Alive) })
	undo := exec.Command("/bin/bash", "-c", `ip netns del "$0"; nft delete table inet "$0"; find /sys/fs/cgroup -maxdepth 2 -type d -name "$0" -exec rmdir {} +`, name)
	i.Node.Do(func() error {
		if out, err := undo.CombinedOutput(); err != nil {
			t.Errorf("cannot undo what was made by hand: %v: %s", err, out)
		}
		return nil
	})
}

// ownWorld wants the copy to have a namespace of its own of each kind that the
// original has, and to be the first process in it.
func ownWorld(t *testing.T, copied *explain.Container, node map[string]string) {
	t.Helper()
	for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt", "cgroup"} {
		if harness.Namespace(copied.PID, kind) == node[kind] {
			t.Errorf("the copy's %s namespace is the node's", kind)
		}
	}
	first := func(p explain.Process) bool { return p.PID == copied.PID && p.Inside == 1 && p.Command == "httpd" }
	if !slices.ContainsFunc(copied.Processes, first) {
		t.Errorf("processes %+v, want httpd to be 1 inside", copied.Processes)
	}
}

// mountTexts are mounts without what names the instance's files.
func mountTexts(list []explain.Mount) (texts []string) {
	virtual := regexp.MustCompile(`^(proc|sysfs|tmpfs|devpts|mqueue|cgroup2?|overlay)$`)
	for _, m := range list {
		kind := m.Type
		if !virtual.MatchString(kind) {
			kind = "a file of the node"
		}
		texts = append(texts, m.Target+" "+kind+" "+m.Options)
	}
	return texts
}

func equalSets(t *testing.T, what string, want, got []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: no %q by hand", what, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s: %q is by hand only", what, g)
		}
	}
}
