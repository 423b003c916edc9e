package cgroup

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// base holds every group of this run.
var base = "/cri-box-test-" + random()

// self is this test binary.
var self = func() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exe
}()

func random() string {
	b := make([]byte, 4)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func TestMain(m *testing.M) {
	if role := os.Getenv("CGROUP_TEST_ROLE"); role != "" {
		helper(role)
		return
	}
	code := m.Run()
	if left := leftovers(); len(left) > 0 {
		fmt.Println("cgroups left behind:", left)
		code = 1
	}
	os.Exit(code)
}

func leftovers() []string {
	s, err := Detect()
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, dir := range s.dirs(base) {
		if _, err := os.Stat(dir); err == nil {
			left = append(left, dir)
		}
	}
	return left
}

// helper is what a test runs inside a group. It says "ready" once it has done
// what it is for, and ends when its standard input does.
func helper(role string) {
	var keep [][]byte
	take := func(mib int) {
		b := make([]byte, mib<<20)
		for i := range b {
			b[i] = 1
		}
		keep = append(keep, b)
	}
	switch role {
	case "memory":
		take(32)
	case "oom":
		for range 1024 {
			take(8)
		}
	case "cpu":
		for used := (syscall.Rusage{}); used.Utime.Nano() < 40e6; {
			syscall.Getrusage(syscall.RUSAGE_SELF, &used)
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(keep)
}

func system(t testing.TB) *System {
	t.Helper()
	s, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everywhere runs a test on this host as it is and, where it is hybrid, as if v2 were
// not mounted.
func everywhere(t *testing.T, test func(t *testing.T, s *System)) {
	s := system(t)
	t.Run(string(s.Mode), func(t *testing.T) { test(t, s) })
	if s.Mode == Hybrid {
		v1 := &System{Mode: V1, v1: s.v1, controllers: s.controllers}
		t.Run("as v1", func(t *testing.T) { test(t, v1) })
	}
}

// create makes a group that is gone when the test ends, with all in it.
func create(t testing.TB, r *specs.LinuxResources) *Cgroup {
	t.Helper()
	return createIn(t, system(t), r)
}

func createIn(t testing.TB, s *System, r *specs.LinuxResources) *Cgroup {
	t.Helper()
	p := path.Join(base, random(), random())
	t.Cleanup(func() { destroy(t, s, p) })
	c, err := s.Create(t.Context(), p, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func destroy(t testing.TB, s *System, cgroupPath string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if c, err := s.Open(cgroupPath); err == nil {
		if err := c.Kill(ctx); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if err := s.Remove(ctx, cgroupPath); err != nil {
		t.Error(err)
	}
	if err := s.RemoveEmptyParents(cgroupPath, base); err != nil {
		t.Error(err)
	}
}

// A process is one that a test started in a group.
type process struct {
	*exec.Cmd
	stdin io.Closer
}

// start runs argv in the group as a container starts: born into the v2 group,
// joining v1 by writing 0 into every tasks file. It returns at its first line,
// or its end.
func start(t *testing.T, c *Cgroup, env string, argv ...string) process {
	t.Helper()
	tasks, err := c.TasksFDs()
	if err != nil {
		t.Fatal(err)
	}
	join := `n=$1; shift; for ((i=3; i<3+n; i++)); do echo 0 >&$i || exit 99; done; exec "$@"`
	cmd := exec.Command("/bin/bash", append([]string{"-c", join, "bash", strconv.Itoa(len(tasks))}, argv...)...)
	cmd.Env = append(os.Environ(), env)
	cmd.ExtraFiles = tasks
	cmd.Stderr = os.Stderr
	if dir := c.UnifiedDir(); dir != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		f.Close()
	}
	t.Cleanup(func() { // which also keeps stdin open until then
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	bufio.NewReader(stdout).ReadString('\n')
	return process{cmd, stdin}
}

// role runs this test binary's helper in the group.
func role(t *testing.T, c *Cgroup, name string) process {
	t.Helper()
	return start(t, c, "CGROUP_TEST_ROLE="+name, self)
}

// read returns a file of the group: on v1 with that controller.
func read(t testing.TB, c *Cgroup, v1, v2 string) string {
	t.Helper()
	dir, name := c.sys.unifiedDir(c.Path), v2
	if c.sys.Mode != V2 {
		controller, _, _ := strings.Cut(v1, ".")
		dir, name = c.sys.dir(controller, c.Path), v1
	}
	data, err := os.ReadFile(path.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
