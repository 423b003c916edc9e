// Package systemd_test proves what the unit promises, with a real systemd: it runs
// in a virtual machine where that is the first process (hack/vm).
package systemd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	unit   = "cri-box.service"
	binary = "/usr/local/bin/cri-box"
)

// A node is the machine with the packaged unit and containers that must not notice
// what is done to it.
type node struct {
	*harness.Instance
	pod    *harness.Pod
	all    []*harness.Container
	pids   map[string]int
	writer *harness.Container
}

// install puts binary, unit and a configuration where the package has them.
func install(t *testing.T, driver string) *harness.Instance {
	t.Helper()
	if comm, _ := os.ReadFile("/proc/1/comm"); string(comm) != "systemd\n" {
		t.Fatalf("process 1 is %q: this runs in a machine of its own, see hack/vm", comm)
	}
	dir := "/tmp/cri-box-" + t.Name()
	i := harness.Unit(t, dir)
	text, err := os.ReadFile(filepath.Join(harness.Tree(), "hack/install/cri-box.service"))
	if err != nil {
		t.Fatal(err)
	}
	serve := fmt.Sprintf("serve --root %s --state %s --log-level debug", i.Root, i.State)
	text = []byte(strings.NewReplacer("@BINDIR@", "/usr/local/bin", "cri-box serve\n", "cri-box "+serve+"\n").Replace(string(text)))
	config := "[network]\nmode = \"embedded\"\n[cgroup]\ndriver = \"" + driver + "\"\n"
	for path, content := range map[string]string{"/etc/systemd/system/" + unit: string(text), "/etc/cri-box/config.toml": config} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	replaceBinary(t, "")
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "-u", unit, "-n", "60", "--no-pager").CombinedOutput()
			t.Logf("%s", out)
		}
		exec.Command("systemctl", "stop", unit).Run()
		os.Remove("/etc/cri-box/config.toml") // every daemon here would go by it
	})
	return i
}

// replaceBinary does what a package's upgrade does: another file under the name.
func replaceBinary(t *testing.T, more string) {
	t.Helper()
	content, err := os.ReadFile(harness.CriBox(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary+".new", append(content, more...), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(binary+".new", binary); err != nil {
		t.Fatal(err)
	}
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func show(t *testing.T, property string) string {
	t.Helper()
	return systemctl(t, "show", "--value", "-p", property, unit)
}

func mainPID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(show(t, "MainPID"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// populate starts containers that write, wait for input, and have a terminal.
func populate(t *testing.T, i *harness.Instance) *node {
	t.Helper()
	n := &node{Instance: i, pids: map[string]int{}}
	image := i.Image("busybox")
	n.pod = i.RunPod()
	n.writer = n.pod.Run("writer", image, []string{"/bin/workload", "count", "20"})
	n.all = []*harness.Container{n.writer,
		n.pod.Run("input", image, []string{"cat"}, func(c *runtimeapi.ContainerConfig) { c.Stdin = true }),
		n.pod.Run("terminal", image, []string{"cat"}, func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true }),
	}
	for _, c := range n.all {
		n.pids[c.ID] = c.PID()
	}
	return n
}

// lines is how many the writer's log has; each must be the one after that before.
func (n *node) lines(t *testing.T) int {
	t.Helper()
	lines := n.writer.Logs()
	for i, l := range lines {
		if strings.TrimSpace(l.Text) != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, l.Text)
		}
	}
	return len(lines)
}

// untouched waits for the daemon and sees that the containers have noticed nothing.
func (n *node) untouched(t *testing.T, what string) {
	t.Helper()
	n.Reconnect()
	n.Wait("an answer after "+what, func() bool {
		_, err := n.Runtime.ListContainers(n.Context(), &runtimeapi.ListContainersRequest{})
		return err == nil
	})
	for _, c := range n.all {
		if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after %s %s is %v: %s %s", what, c.Config.Metadata.Name, st.State, st.Reason, st.Message)
		} else if pid := c.PID(); pid != n.pids[c.ID] {
			t.Errorf("after %s %s is process %d, was %d", what, c.Config.Metadata.Name, pid, n.pids[c.ID])
		}
	}
	before := n.lines(t)
	n.Wait("more lines after "+what, func() bool { return n.lines(t) > before })
}

// TestUnit restarts, stops, kills and upgrades the daemon below containers.
func TestUnit(t *testing.T) {
	i := install(t, "cgroupfs")
	systemctl(t, "start", unit)
	i.Reconnect()
	asWritten(t)
	n := populate(t, i)
	n.untouched(t, "the start")
	n.ownGroups(t)

	systemctl(t, "restart", unit)
	n.untouched(t, "systemctl restart")

	systemctl(t, "stop", unit)
	n.lines(t)
	systemctl(t, "start", unit)
	n.untouched(t, "systemctl stop and start")

	n.kill(t, mainPID(t))
	n.untouched(t, "kill -9 of the daemon")

	replaceBinary(t, "another version")
	systemctl(t, "restart", unit)
	n.untouched(t, "an upgrade")
	n.ownGroups(t)

	n.Wait("systemd to store the descriptors", func() bool { return stored(t) >= 12 })
	n.kill(t, mainPID(t), n.Keeper())
	n.untouched(t, "kill -9 of daemon and keeper at once")

	for _, c := range n.all {
		c.Stop(0)
	}
	n.pod.Stop()
	n.pod.Remove()
	n.Wait("systemd to forget the descriptors", func() bool { return stored(t) == 0 })
}

// asWritten asks systemd what it made of the unit.
func asWritten(t *testing.T) {
	t.Helper()
	for property, want := range map[string]string{"Type": "notify", "NotifyAccess": "main", "KillMode": "process", "OOMPolicy": "continue",
		"Delegate": "yes", "Restart": "always", "FileDescriptorStoreMax": "16384", "WatchdogUSec": "1min", "TasksMax": "infinity",
		"OOMScoreAdjust": "-999", "LimitNOFILE": "1048576"} {
		if got := show(t, property); got != want {
			t.Errorf("%s is %q, wanted %q", property, got, want)
		}
	}
	if before := strings.Fields(show(t, "Before")); !slices.Contains(before, "kubelet.service") {
		t.Errorf("it starts before %q, not before the kubelet", before)
	}
}

// stored is how many descriptors systemd holds.
func stored(t *testing.T) int {
	t.Helper()
	count, err := strconv.Atoi(show(t, "NFileDescriptorStore"))
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// kill kills processes at once, and waits until systemd has started another daemon.
func (n *node) kill(t *testing.T, pids ...int) {
	t.Helper()
	before := mainPID(t)
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGSTOP) // none of them sees another's end
	}
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	n.Wait("systemd to start another daemon", func() bool {
		pid := mainPID(t)
		return pid != 0 && pid != before && show(t, "ActiveState") == "active"
	})
}

// ownGroups sees that daemon and keeper are in control groups of their own.
func (n *node) ownGroups(t *testing.T) {
	t.Helper()
	for name, pid := range map[string]int{"serve": mainPID(t), "keeper": n.Keeper()} {
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		if want := "0::/system.slice/" + unit + "/" + name + "\n"; string(group) != want {
			t.Errorf("%s is in %s, wanted %s", name, group, want)
		}
	}
}

// TestWatchdog has the daemon hang, and then fail its check of itself: systemd puts
// another in its place. One that works is left alone.
func TestWatchdog(t *testing.T) {
	i := install(t, "cgroupfs")
	dropIn := "/etc/systemd/system/" + unit + ".d/watchdog.conf"
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dropIn, []byte("[Service]\nWatchdogSec=20\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(dropIn)) })
	systemctl(t, "daemon-reload")
	systemctl(t, "start", unit)
	i.Reconnect()
	n := populate(t, i)
	first := mainPID(t)
	begin := time.Now()
	for time.Since(begin) < 25*time.Second { // longer than the watchdog waits
		if pid := mainPID(t); pid != first {
			t.Fatalf("a daemon that works was replaced: %d by %d", first, pid)
		}
		n.lines(t)
		time.Sleep(time.Second)
	}
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := n.another(t, first)
	n.untouched(t, "the watchdog")

	// Nobody reaches a daemon whose socket is gone, the kubelet as little as itself.
	if err := os.Remove(i.Socket()); err != nil {
		t.Fatal(err)
	}
	n.another(t, second)
	n.untouched(t, "a failed check")
	if out, err := exec.Command("journalctl", "-u", unit, "--no-pager").Output(); err != nil || !strings.Contains(string(out), "the self-check failed") {
		t.Errorf("the daemon does not say that its check failed: %v", err)
	}
	n.pod.Stop()
	n.pod.Remove()
}

// another waits until the watchdog has put another daemon in the place of one.
func (n *node) another(t *testing.T, before int) (pid int) {
	t.Helper()
	n.Wait("the watchdog", func() bool {
		pid = mainPID(t)
		return pid != 0 && pid != before && show(t, "ActiveState") == "active"
	})
	return pid
}
