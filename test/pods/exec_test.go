package pods_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// asUser runs a container as that user.
func asUser(uid int64) harness.ContainerOption {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: uid} })
}

// exec runs a command that may fail, but has to run.
func exec(t *testing.T, c *harness.Container, timeout time.Duration, command ...string) harness.ExecResult {
	t.Helper()
	r, err := c.Exec(timeout, command...)
	if err != nil {
		t.Fatalf("exec %q: %v", command, err)
	}
	return r
}

func TestExecSync(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	r := exec(t, c, 0, run("echo", "one", "two")...)
	equal(t, "result", r, harness.ExecResult{Stdout: "one\n", Stderr: "two\n"})
	equal(t, "exit code", exec(t, c, harness.Long(10*time.Second), run("exit", "7")...).Code, 7)
	r = exec(t, c, 0, run("write-lines", "10000", "100")...)
	equal(t, "bytes of a long answer", len(r.Stdout), 1000000)
	// The kubelet's probes fail with either, a person reads why.
	if r, err := c.Exec(0, "/bin/missing"); err == nil && (r.Code != 127 || !strings.Contains(r.Stderr, "/bin/missing: no such file")) {
		t.Errorf("executing what does not exist: %+v", r)
	}
	if out := c.Output("stdout"); out != "" {
		t.Errorf("the output of exec is in the container's log: %q", out)
	}
}

func TestExecTimeoutEndsTheTree(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	before := len(group(t, c))
	begin := time.Now()
	_, err := c.Exec(time.Second, run("tree")...)
	equal(t, "code", status.Code(err), codes.DeadlineExceeded)
	if took := time.Since(begin); took < time.Second || took > harness.Long(10*time.Second) {
		t.Errorf("a timeout of 1 s took %v", took)
	}
	equal(t, "processes in the container's cgroup after the answer", len(group(t, c)), before)
	equal(t, "state", c.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

// group lists the processes in the container's cgroup.
func group(t *testing.T, c *harness.Container) []string {
	t.Helper()
	return strings.Fields(readFile(t, cgroupFile(t, c, "pids", "cgroup.procs", "cgroup.procs")))
}

// TestExecAnswersWithoutTheBackground: a child that keeps the pipe does not hold
// the answer.
func TestExecAnswersWithoutTheBackground(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	begin := time.Now()
	r := exec(t, c, harness.Long(30*time.Second), run("hold-output")...)
	equal(t, "stdout", r.Stdout, "done\n")
	if took := time.Since(begin); took > harness.Long(10*time.Second) {
		t.Errorf("the answer took %v", took)
	}
}

// TestExecWithoutMemory: a container whose memory is full, of files in a tmpfs say,
// cannot take the beginning of a command.
func TestExecWithoutMemory(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), []string{"/bin/sleep", "1000"}, resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.OomScoreAdj = 64<<20, 900
	}))
	c.Wait("a process that sleeps, which takes no more memory", func() bool {
		return strings.Contains(readFile(t, filepath.Join("/proc", itoa(c.PID()), "stat")), "(sleep) S ")
	})
	var err error
	c.Wait("a command that cannot begin", func() bool { // what a processor had in reserve is given back late
		fillMemory(t, c)
		_, err = c.Exec(0, "/bin/true")
		return err != nil
	})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "of its memory limit of ") {
		t.Errorf("a command without memory: %v", err)
	}
	equal(t, "state", c.Status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

// fillMemory takes away all of the container's limit that is not in use, and sees to
// it that the kernel kills commands rather than its first process: v1 refuses less
// than is in use, v2 kills for it.
func fillMemory(t *testing.T, c *harness.Container) {
	t.Helper()
	limit := cgroupFile(t, c, "memory", "memory.limit_in_bytes", "memory.max")
	score := filepath.Join("/proc", itoa(c.PID()), "oom_score_adj")
	if strings.HasSuffix(limit, "max") {
		write(t, score, "-1000")
		write(t, limit, "4096")
		return
	}
	write(t, score, "0")
	usage, err := strconv.Atoi(strings.TrimSpace(readFile(t, filepath.Join(filepath.Dir(limit), "memory.usage_in_bytes"))))
	for ; err == nil; usage -= 4096 {
		err = os.WriteFile(limit, []byte(itoa(usage)), 0)
	}
	if !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("taking memory away: %v", err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// TestExecInWhatEnds: a command for a container that has ended a moment ago is refused
// as one for any that does not run.
func TestExecInWhatEnds(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	for n := range 10 {
		c := pod.Run("c"+itoa(n), i.Image(probe), sleeper)
		syscall.Kill(c.PID(), syscall.SIGKILL)
		var err error
		for err == nil { // it may be killed a moment later
			_, err = c.Exec(0, run("exit", "0")...)
		}
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a command after the end: %v", err)
		}
	}
}

// TestExecWhoseKeeperDies: nobody has the answer of a command that was about to begin,
// and nobody would wait for it. It ends, for it will be tried again.
func TestExecWhoseKeeperDies(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(probe), sleeper)
	begun := func() (list []string) { // in commands' groups
		groups, _ := filepath.Glob(filepath.Join(c.Group(), "exec-*", "cgroup.procs"))
		for _, name := range groups {
			list = append(list, strings.Fields(readFile(t, name))...)
		}
		return list
	}
	write(t, filepath.Join(c.Group(), "cgroup.freeze"), "1")
	answer := make(chan error, 1)
	go func() {
		_, err := c.Exec(0, sleeper...)
		answer <- err
	}()
	c.Wait("what is to be the command", func() bool { return len(begun()) > 0 })
	i.KillKeeper()
	equal(t, "code", status.Code(<-answer), codes.Unavailable)
	if left := begun(); len(left) > 0 {
		t.Errorf("there are still %s", left)
	}
	write(t, filepath.Join(c.Group(), "cgroup.freeze"), "0")
	equal(t, "a command after that", exec(t, c, 0, run("exit", "7")...).Code, 7)
}

func TestExecInWhatDoesNotRun(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Create("c", i.Image(probe), run("exit", "0"))
	if _, err := c.Exec(0, run("exit", "0")...); err == nil {
		t.Error("exec in a created container succeeded")
	}
	c.Start()
	c.WaitExit()
	if _, err := c.Exec(0, run("exit", "0")...); err == nil {
		t.Error("exec in an exited container succeeded")
	}
	c.ID = strings.Repeat("0", 64)
	_, err := c.Exec(0, run("exit", "0")...)
	equal(t, "code of an unknown container", status.Code(err), codes.NotFound)
}
