package pods_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// here is what the test process, and so the machine, has.
func here(kind string) string { return harness.Namespace(os.Getpid(), kind) }

func TestContainersShareThePodsNamespaces(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	a := pod.Run("a", i.Image(probe), sleeper).PID()
	b := pod.Run("b", i.Image(probe), sleeper).PID()
	for _, kind := range []string{"net", "ipc", "uts"} {
		ns := harness.Namespace(a, kind)
		equal(t, kind+" of the second container", harness.Namespace(b, kind), ns)
		if ns == here(kind) || ns == "" {
			t.Errorf("%s namespace %q is the node's", kind, ns)
		}
	}
	for _, kind := range []string{"pid", "mnt", "cgroup"} {
		x, y := harness.Namespace(a, kind), harness.Namespace(b, kind)
		if x == y || x == here(kind) || y == here(kind) {
			t.Errorf("%s namespaces %q and %q should differ from each other and from the node's %q", kind, x, y, here(kind))
		}
	}
	equal(t, "user namespace", harness.Namespace(a, "user"), here("user"))
}

func TestPodsDoNotShare(t *testing.T) {
	i := harness.New(t)
	a := i.RunPod().Run("c", i.Image(probe), sleeper).PID()
	b := i.RunPod().Run("c", i.Image(probe), sleeper).PID()
	for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		if harness.Namespace(a, kind) == harness.Namespace(b, kind) {
			t.Errorf("two pods have the same %s namespace", kind)
		}
	}
}

func TestNodeNamespaces(t *testing.T) {
	i := harness.New(t)
	pid := i.RunPod(namespaces(modeNode, modeNode, modeNode)).Run("c", i.Image(probe), sleeper).PID()
	node, err := i.Node.Inode()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "net", harness.Namespace(pid, "net"), node)
	equal(t, "pid", harness.Namespace(pid, "pid"), here("pid"))
	equal(t, "ipc", harness.Namespace(pid, "ipc"), here("ipc"))
	equal(t, "uts", harness.Namespace(pid, "uts"), here("uts"))
	if harness.Namespace(pid, "mnt") == here("mnt") {
		t.Error("the mount namespace is the node's")
	}
}

// TestSharedPID: the pod's init is process 1 of all containers, it reaps what
// they orphan, and nothing inside ends it.
func TestSharedPID(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modePod, modePod, modePod))
	a := pod.Run("a", i.Image(probe), sleeper)
	b := pod.Run("b", i.Image(probe), sleeper)
	equal(t, "pid namespace of the second container", harness.Namespace(b.PID(), "pid"), harness.Namespace(a.PID(), "pid"))
	if harness.Namespace(a.PID(), "pid") == here("pid") {
		t.Error("the pid namespace is the node's")
	}
	init := harness.Init(a.PID())
	if init == 0 || init == a.PID() || init == b.PID() {
		t.Fatalf("process 1 of the pod is %d, the containers' are %d and %d", init, a.PID(), b.PID())
	}
	orphans := pod.Run("orphans", i.Image(probe), run("fork-orphans", "50"))
	orphans.WaitOutput("orphans 50")
	i.Wait("the init to reap the orphans", func() bool { return len(harness.Zombies(init)) == 0 })

	r, err := a.Exec(0, run("kill1")...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Stdout, "alive: true") {
		t.Errorf("after kill -9 1: %q", r.Stdout)
	}
	equal(t, "process 1 after kill -9 1", harness.Init(a.PID()), init)
	if !harness.Alive(a.PID()) || !harness.Alive(b.PID()) {
		t.Error("kill -9 1 from inside ended a container")
	}
}

// TestSharedPIDEndsAlone: one container's end is not the other's.
func TestSharedPIDEndsAlone(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modePod, modePod, modePod))
	stays := pod.Run("stays", i.Image(probe), sleeper)
	ends := pod.Run("ends", i.Image(probe), run("exit", "9"))
	equal(t, "exit code", ends.WaitExit().ExitCode, 9)
	equal(t, "state of the other", stays.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestTargetJoins(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	target := pod.Run("target", i.Image(probe), sleeper)
	debug := pod.Run("debug", i.Image(probe), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: target.ID}
	}))
	equal(t, "pid namespace", harness.Namespace(debug.PID(), "pid"), harness.Namespace(target.PID(), "pid"))
	if harness.Namespace(debug.PID(), "mnt") == harness.Namespace(target.PID(), "mnt") {
		t.Error("the mount namespace is the target's")
	}
	debug.Stop(0)
	equal(t, "state of the target", target.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestTargetInAnotherPodIsRefused(t *testing.T) {
	i := harness.New(t)
	target := i.RunPod().Run("target", i.Image(probe), sleeper)
	pod := i.RunPod()
	config := pod.ContainerConfig("debug", i.Image(probe), sleeper)
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: target.ID}
	if _, err := pod.TryCreate(config); err == nil {
		t.Error("a container joined the pid namespace of another pod's")
	}
}

// TestOwnPIDNamespaceEndsWithItsFirst: what a container leaves running dies with it.
func TestOwnPIDNamespaceEndsWithItsFirst(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), run("tree"))
	i.Wait("the tree", func() bool { return strings.Count(c.Output("stdout"), "pid ") == 3 })
	tree := append(descendants(c.PID()), c.PID())
	if len(tree) != 3 {
		t.Fatalf("the tree has %d processes, wanted 3", len(tree))
	}
	c.Stop(0)
	for _, pid := range tree {
		if harness.Alive(pid) {
			t.Errorf("process %d outlived its container", pid)
		}
	}
}

// descendants lists the living processes below pid.
func descendants(pid int) []int {
	children := harness.Children(pid)
	all := slices.Clone(children)
	for _, c := range children {
		all = append(all, descendants(c)...)
	}
	return all
}
