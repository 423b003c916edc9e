package pods_test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestServeKilled: containers live, logs go on, and exits that nobody was there
// to see are exact.
func TestServeKilled(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	counter := pod.Run("counter", i.Image(probe), run("count", "5"))
	codes := map[string]*harness.Container{}
	for _, code := range []string{"0", "3", "42"} {
		codes[code] = pod.Run("exits-"+code, i.Image(probe), run("on-term", code))
		codes[code].WaitOutput("ready")
	}
	killed := pod.Run("killed", i.Image(probe), sleeper)
	pids := map[string]int{"killed": killed.PID()}
	for code, c := range codes {
		pids[code] = c.PID()
	}
	net := harness.Namespace(killed.PID(), "net")
	counter.WaitOutput("3\n")

	i.Kill()
	for code := range codes {
		syscall.Kill(pids[code], syscall.SIGTERM)
	}
	syscall.Kill(pids["killed"], syscall.SIGKILL)
	for name, pid := range pids {
		i.Wait("the end of "+name, func() bool { return !harness.Alive(pid) })
	}
	goesOn(t, counter, "while serve is away")

	i.Start()
	for code, c := range codes {
		status := c.WaitExit()
		equal(t, "exit code", strconv.Itoa(int(status.ExitCode)), code)
		if status.FinishedAt < status.StartedAt {
			t.Errorf("finished %d before it started %d", status.FinishedAt, status.StartedAt)
		}
	}
	equal(t, "exit code of what was killed", killed.WaitExit().ExitCode, 137)
	equal(t, "state of the counter", counter.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	equal(t, "network namespace", harness.Namespace(counter.PID(), "net"), net)
	equal(t, "state of the pod", pod.Status().State, runtimeapi.PodSandboxState_SANDBOX_READY)
	equal(t, "exec", counter.MustExec(run("echo", "again")...), "again\n")
	counter.Stop(30)
	equal(t, "exit code of the counter", counter.Status().ExitCode, 0)
	checkCount(t, counter)
}

// TestKeeperKilled: containers live, logs go on, and the namespaces are the same.
// Who ended while no keeper was there may have ended unseen; those that live keep
// an exact code.
func TestKeeperKilled(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	counter := pod.Run("counter", i.Image(probe), run("count", "5"))
	polite := pod.Run("polite", i.Image(probe), run("on-term", "4"))
	polite.WaitOutput("ready")
	counter.WaitOutput("3\n")
	pid := counter.PID()
	before := map[string]string{}
	for _, kind := range []string{"net", "ipc", "uts", "mnt", "pid"} {
		before[kind] = harness.Namespace(pid, kind)
	}

	old := i.KillKeeper()
	i.Wait("another keeper", func() bool { k := i.Keeper(); return k != 0 && k != old })
	goesOn(t, counter, "under the next keeper")
	equal(t, "pid of the counter", counter.PID(), pid)
	for kind, ns := range before {
		equal(t, kind+" namespace", harness.Namespace(pid, kind), ns)
	}
	// A container made now shares them too.
	late := pod.Run("late", i.Image(probe), sleeper)
	for _, kind := range []string{"net", "ipc", "uts"} {
		equal(t, kind+" namespace of a later container", harness.Namespace(late.PID(), kind), before[kind])
	}
	equal(t, "exec", counter.MustExec(run("echo", "still")...), "still\n")
	polite.Stop(30)
	if s := polite.Status(); s.ExitCode != 4 && (s.ExitCode != 255 || s.Reason != "Unknown" || !strings.Contains(s.Message, "keeper")) {
		t.Errorf("code %d, reason %q, message %q: want 4, or 255 with a reason that names the keeper", s.ExitCode, s.Reason, s.Message)
	}
	counter.Stop(30)
	checkCount(t, counter)
}

// TestKeeperKilledWithAnIdlePod: a pod without a running container keeps its
// namespaces and what is in its shared memory.
func TestKeeperKilledWithAnIdlePod(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	writer := pod.Run("writer", i.Image(busybox), []string{"/bin/sh", "-c", "echo kept >/dev/shm/file; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc"})
	writer.WaitExit()
	old := i.KillKeeper()
	i.Wait("another keeper", func() bool { k := i.Keeper(); return k != 0 && k != old })
	reader := pod.Run("reader", i.Image(busybox), []string{"/bin/sh", "-c", "cat /dev/shm/file >&2; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc"})
	equal(t, "exit code", reader.WaitExit().ExitCode, 0)
	equal(t, "shared memory", reader.Output("stderr"), "kept\n")
	equal(t, "namespaces", reader.Output("stdout"), writer.Output("stdout"))
}

// goesOn wants the counter to write more lines from now on.
func goesOn(t *testing.T, c *harness.Container, when string) {
	t.Helper()
	before := len(c.Logs())
	c.Wait("the log to go on "+when, func() bool { return len(c.Logs()) > before+5 })
}

// checkCount wants every number from 0 to the last one, each once.
func checkCount(t *testing.T, c *harness.Container) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(c.Output("stdout"), "\n"), "\n")
	last := len(lines) - 1
	equal(t, "last line", lines[last], "last "+strconv.Itoa(last-1))
	for n, line := range lines[:last] {
		if line != strconv.Itoa(n) {
			t.Fatalf("line %d of the log is %q: lines were lost or repeated", n, line)
		}
	}
}
