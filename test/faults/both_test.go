package faults_test

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killBoth kills daemon and keeper so that neither can hand anything to the other.
func killBoth(i *harness.Instance) {
	keeper := i.Keeper()
	i.Halt(keeper) // it shall not outlive the daemon by a line
	i.Kill()
	syscall.Kill(keeper, syscall.SIGKILL)
	i.Wait("the keeper's end", func() bool { return !harness.Alive(keeper) })
}

// TestBothKilled: what nobody holds any more is found again by its name or its
// process. Containers live, logs go on and lose no whole line, namespaces and
// shared memory are the same, exits are seen.
func TestBothKilled(t *testing.T) {
	i := harness.New(t)
	image := i.Image("busybox")
	pod := i.RunPod()
	counter := pod.Run("counter", image, []string{"/bin/workload", "count", "5"})
	polite := pod.Run("polite", image, []string{"/bin/workload", "on-term", "7"})
	polite.WaitOutput("ready")
	counter.WaitOutput("3\n")
	polite.MustExec("/bin/sh", "-c", "echo kept > /dev/shm/file")
	idle := i.RunPod() // without a process
	shared := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	member := shared.Run("member", image, []string{"/bin/workload", "sleep-forever"})
	pid, ns := counter.PID(), namespaces(counter.PID())
	idleIP := idle.Status().Network.Ip

	killBoth(i)
	i.Start()

	for _, p := range []*harness.Pod{pod, idle, shared} {
		if s := p.Status().State; s != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Errorf("a pod is %v", s)
		}
	}
	for _, c := range []*harness.Container{counter, polite, member} {
		if s := c.Status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("container %s is %v: %s", c.Config.Metadata.Name, s.State, s.Message)
		}
	}
	if got := counter.PID(); got != pid {
		t.Errorf("the counter is process %d, it was %d", got, pid)
	}
	late := pod.Run("late", image, []string{"/bin/workload", "sleep-forever"})
	if got := namespaces(late.PID()); !slices.Equal(got, ns) {
		t.Errorf("namespaces of a later container: %q, want %q", got, ns)
	}
	if got := late.MustExec("/bin/cat", "/dev/shm/file"); got != "kept\n" {
		t.Errorf("shared memory holds %q", got)
	}
	joins(t, shared, member)
	lines := len(counter.Logs())
	i.Wait("the log to go on", func() bool { return len(counter.Logs()) > lines+5 })
	counter.Stop(30)
	whole(t, counter.Output("stdout"))
	polite.Stop(30)
	if s := polite.Status(); s.ExitCode != 7 && s.Reason != "Unknown" {
		t.Errorf("exit code %d, reason %s: want 7, or Unknown", s.ExitCode, s.Reason)
	}
	i.PodConfig()
	if c := idle.Run("first", image, []string{"/bin/sh", "-c", "ip -4 addr show eth0 2>/dev/null; cat /proc/net/fib_trie"}); !strings.Contains(waited(c), idleIP) {
		t.Errorf("the idle pod's network has not its address %s: %s", idleIP, c.Output("stdout"))
	}
}

// joins adds a container to a pod with one PID namespace. Where the kernel makes no
// procfs of it (before Linux 6.17) none can be added, and the answer says so.
func joins(t *testing.T, pod *harness.Pod, member *harness.Container) {
	t.Helper()
	other, err := pod.TryCreate(pod.ContainerConfig("other", member.Config.Image.Image, []string{"/bin/workload", "sleep-forever"}))
	if !mount.Detect().ProcOf {
		if err == nil || !strings.Contains(err.Error(), "cannot mount proc of the pod's PID namespace") {
			t.Errorf("a later container without procfs: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	other.Start()
	if got := harness.Namespace(other.PID(), "pid"); got != harness.Namespace(member.PID(), "pid") {
		t.Errorf("a later container is in pid namespace %s", got)
	}
}

func waited(c *harness.Container) string {
	c.WaitExit()
	return c.Output("stdout")
}

// TestBothKilledWithUserNamespaces: the user namespace is found by a container, by
// the network that it owns, or where neither is left made anew with the same ids.
func TestBothKilledWithUserNamespaces(t *testing.T) {
	i := harness.New(t)
	image := i.Image("busybox")
	users := func(c *runtimeapi.PodSandboxConfig) {
		ids := []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids, Gids: ids}
	}
	node := func(c *runtimeapi.PodSandboxConfig) {
		users(c)
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	}
	sleeper := []string{"/bin/workload", "sleep-forever"}
	busy, idle, empty := i.RunPod(users), i.RunPod(users), i.RunPod(node)
	first := busy.Run("first", image, sleeper)
	first.MustExec("/bin/sh", "-c", "echo kept > /dev/shm/file")
	ns := harness.Namespace(first.PID(), "user")
	gone := idle.Run("gone", image, []string{"/bin/readlink", "/proc/self/ns/user"})
	gone.WaitExit()

	killBoth(i)
	i.Start()

	late := busy.Run("late", image, sleeper)
	if got := harness.Namespace(late.PID(), "user"); got != ns {
		t.Errorf("a later container is in user namespace %s, want %s", got, ns)
	}
	if got := late.MustExec("/bin/cat", "/dev/shm/file"); got != "kept\n" {
		t.Errorf("shared memory holds %q", got)
	}
	next := idle.Run("next", image, []string{"/bin/readlink", "/proc/self/ns/user"})
	next.WaitExit()
	if got, want := next.Output("stdout"), gone.Output("stdout"); got != want {
		t.Errorf("the idle pod's user namespace is %s, it was %s", got, want)
	}
	for _, p := range []*harness.Pod{busy, idle, empty} {
		c := p.Run("map", image, []string{"/bin/sh", "-c", "echo x >/dev/shm/y; cat /proc/self/uid_map; stat -c %u /dev/mqueue"})
		if c.WaitExit(); strings.Join(strings.Fields(c.Output("stdout")), " ") != "0 300000 65536 0" {
			t.Errorf("a later container has %q %q", c.Output("stdout"), c.Output("stderr"))
		}
	}
}

// TestBothKilledWhatCannotBeKept: a terminal's other end is gone, and so are those
// that ended unseen: both are Unknown, and the next daemon removes them.
func TestBothKilledWhatCannotBeKept(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	tty := pod.Run("tty", i.Image("busybox"), []string{"/bin/workload", "sleep-forever"}, func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	unseen := pod.Run("unseen", i.Image("busybox"), []string{"/bin/workload", "sleep-forever"})
	created := pod.Create("created", i.Image("busybox"), []string{"/bin/workload", "on-term", "3"})
	pids := []int{tty.PID(), unseen.PID()}
	killBoth(i)
	syscall.Kill(pids[1], syscall.SIGKILL)
	i.Wait("its end", func() bool { return !harness.Alive(pids[1]) })
	i.Start()
	for _, c := range []*harness.Container{tty, unseen} {
		s := c.WaitExit()
		if s.Reason != "Unknown" && s.ExitCode != 137 || s.Reason == "Unknown" && (s.ExitCode != 255 || !strings.Contains(s.Message, "died")) {
			t.Errorf("container %s: code %d, reason %q, message %q", c.Config.Metadata.Name, s.ExitCode, s.Reason, s.Message)
		}
	}
	i.Wait("the end of what had a terminal", func() bool { return !harness.Alive(pids[0]) })
	created.Start()
	created.WaitOutput("ready")
	created.Stop(20)
	if s := created.Status(); s.ExitCode != 3 {
		t.Errorf("exit code %d of a container that was created before, want 3", s.ExitCode)
	}
}

func namespaces(pid int) []string {
	return []string{harness.Namespace(pid, "net"), harness.Namespace(pid, "ipc"), harness.Namespace(pid, "uts")}
}

// whole wants every number from 0 to the last one, each once.
func whole(t *testing.T, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for n, line := range lines[:len(lines)-1] {
		if line != strconv.Itoa(n) {
			t.Fatalf("line %d of the log is %q: lines were lost or repeated", n, line)
		}
	}
}

// TestBothKilledAfterALostStart: a daemon that died between a container's start and
// its record leaves it to the next one, from whose record it must be found again.
func TestBothKilledAfterALostStart(t *testing.T) {
	l := newLife(t)
	c := l.RunPod().Create("c", l.image, []string{"/bin/workload", "sleep-forever"})
	l.arm("start: record", "kill")
	if err := c.TryStart(); err == nil {
		t.Fatal("the daemon should have died while it started the container")
	}
	l.revive()
	pid := c.PID()
	killBoth(l.Instance)
	l.Start()
	if s := c.Status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || c.PID() != pid {
		t.Errorf("container is %v as process %d (%s), it ran as %d", s.State, c.PID(), s.Message, pid)
	}
}
