package cli_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/probe/state"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestInheritedDescriptors: what serve's parent left open reaches neither the
// keeper nor its spawners nor a container.
func TestInheritedDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parent's own")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Some more than the keeper is given by number.
	i := harness.New(t, harness.Inherit(f, f, f, f, f, f, f, f))
	if n := open(i.PID(), path); n != 8 {
		t.Errorf("serve has %d of its 8 descriptors: the test proves nothing", n)
	}
	c := i.RunPod().Run("probe", i.Image("probe"), []string{"/bin/probe"})
	c.WaitExit()
	s, err := state.Parse([]byte(c.Output("stdout")))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range s.Files {
		if file.FD > 2 && !strings.HasPrefix(file.Target, "/proc/") {
			t.Errorf("the container has descriptor %d, %s", file.FD, file.Target)
		}
	}
	for _, pid := range append(harness.Children(i.Keeper()), i.Keeper()) {
		if n := open(pid, path); n != 0 {
			t.Errorf("%s: it has %d of the parent's descriptors", harness.Describe(pid), n)
		}
	}
}

// open counts a process's descriptors of a file.
func open(pid int, path string) (n int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == path {
			n++
		}
	}
	return n
}

// TestNoSecretInLog: neither what is right nor what is refused leaves a secret in
// the log, at any level, or in an answer.
func TestNoSecretInLog(t *testing.T) {
	const secret, token = "pass-w0rd-of-the-registry", "identity-t0ken-of-the-registry"
	i := harness.New(t)
	ref := i.Push(busybox, harness.TestImage(t, busybox))
	pull := func(auth *runtimeapi.AuthConfig) error {
		_, err := i.Images.PullImage(i.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
		return err
	}
	var answers []string
	for _, registry := range []func(){
		func() { i.Registry().BasicAuth("user", secret) },
		func() { i.Registry().TokenAuth("user", secret, token) },
	} {
		registry()
		for _, auth := range []*runtimeapi.AuthConfig{
			{Username: "user", Password: secret},
			{Username: "other", Password: secret},
			{Auth: "dXNlcjpwYXNzLXcwcmQtb2YtdGhlLXJlZ2lzdHJ5"},
			{IdentityToken: token},
			{RegistryToken: token},
		} {
			if err := pull(auth); err != nil {
				answers = append(answers, err.Error())
			}
		}
	}
	if len(answers) < 4 {
		t.Errorf("only %d pulls were refused: %q", len(answers), answers)
	}
	log, err := os.ReadFile(i.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(answers, string(log)) {
		for _, s := range []string{secret, token, "dXNlcjpwYXNz"} {
			if at := strings.Index(text, s); at >= 0 {
				t.Errorf("a secret is shown: %.200q", text[max(0, at-100):])
			}
		}
	}
	if !strings.Contains(string(log), "PullImage") {
		t.Error("the log does not tell of pulls")
	}
}

// TestWhy: a pod that could not be made, a container that could not start, one
// that crashed.
func TestWhy(t *testing.T) {
	i := harness.New(t)
	if out := must(i, "why"); out != "No pod is at a step, and none had an error since the daemon began.\n" {
		t.Errorf("when all is well: %s", out)
	}
	port := func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80}}
	}
	i.RunPod(port)
	config := i.PodConfig(port)
	if _, err := i.TryRunPod(config); err == nil {
		t.Fatal("the pod could be made")
	}
	pod := i.RunPod()
	if c := pod.Create("broken", i.Image(busybox), []string{"/no/such"}); c.TryStart() == nil {
		t.Fatal("the container could start")
	}
	pod.Run("crash", i.Image(busybox), []string{"sh", "-c", "exit 5"}).WaitExit()
	out := must(i, "why", pod.Config.Metadata.Name)
	for _, want := range []string{"is ready, made ", "container broken", "code 128, StartError ", "/no/such", "last error, ", "in StartContainer: ", "container crash", "code 5, Error", "next: its own log says why: cri-box logs "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out = must(i, "why")
	for _, want := range []string{"pod default/" + config.Metadata.Name + " is not here", "in RunPodSandbox: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if r := cli(i, "why", "nobody"); r.code != 1 || !strings.Contains(r.err, `the daemon knows no pod "nobody"`) {
		t.Errorf("an unknown pod: %+v", r)
	}
}

// TestReset: with pods that run and images, everything goes; before, it asks.
func TestReset(t *testing.T) {
	i := harness.New(t)
	must(i, "run", "-d", "--name", "web", "-p", "8080:80", i.Image(busybox), "sleep", "1000")
	pod := i.RunPod()
	pod.Run("c", i.Image(busybox), []string{"sleep", "1000"})
	reset := func(args ...string) (string, error) {
		cmd := i.Command(append([]string{"reset", "--state", i.State, "--root", i.Root}, args...)...)
		var out []byte
		err := i.Node.Do(func() (err error) { out, err = cmd.CombinedOutput(); return err })
		return string(out), err
	}
	if out, err := reset("--yes"); err == nil || !strings.Contains(out, "another cri-box does (pid "+fmt.Sprint(i.PID())+")") || !strings.Contains(out, "stop the daemon first") {
		t.Errorf("while the daemon runs: %v\n%s", err, out)
	}
	syscall.Kill(i.PID(), syscall.SIGUSR1)
	i.Wait("the stacks", func() bool { _, err := os.Stat(filepath.Join(i.State, "stacks.txt")); return err == nil })
	i.Stop()
	if out, err := reset(); err == nil || !strings.Contains(out, "nothing was removed") || !harness.Alive(i.Keeper()) {
		t.Errorf("without an answer: %v\n%s", err, out)
	}
	strange := filepath.Join(i.Root, "somebody's")
	if err := os.WriteFile(strange, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := reset("--yes")
	if err == nil || !strings.Contains(out, "what is still in it is not cri-box's") || !strings.Contains(out, "removed pod cri-box-run/web\n") || !strings.Contains(out, "removed pod default/"+pod.Config.Metadata.Name+"\n") {
		t.Errorf("with a strange file: %v\n%s", err, out)
	}
	if err := os.Remove(strange); err != nil {
		t.Fatal(err)
	}
	if out, err := reset("--yes"); err != nil || !strings.Contains(out, "removed "+i.Root+"\n") {
		t.Errorf("again: %v\n%s", err, out)
	}
	if out, err := reset("--yes"); err != nil || out != "there is nothing to remove\n" {
		t.Errorf("a third time: %v\n%s", err, out)
	}
	if pid := i.Keeper(); pid != 0 {
		t.Errorf("the keeper is still there: %s", harness.Describe(pid))
	}
	for _, dir := range []string{i.Root, i.State} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

// TestResetOfNestedDirectories: whichever is in the other, both go.
func TestResetOfNestedDirectories(t *testing.T) {
	for _, at := range [][2]string{{"a", "a/state"}, {"a/root", "a"}} {
		i := harness.Bare(t)
		root, state := filepath.Join(i.Dir, at[0]), filepath.Join(i.Dir, at[1])
		if err := errors.Join(os.MkdirAll(root, 0o700), os.MkdirAll(state, 0o711)); err != nil {
			t.Fatal(err)
		}
		out, err := i.Command("reset", "--yes", "--state", state, "--root", root).CombinedOutput()
		if err != nil {
			t.Errorf("root %s, state %s: %v\n%s", at[0], at[1], err, out)
		}
		if _, err := os.Stat(filepath.Join(i.Dir, "a")); !os.IsNotExist(err) {
			t.Errorf("root %s, state %s: it is still there: %v", at[0], at[1], err)
		}
	}
}

// TestResetThatCannot: only who is kept away by a daemon is told to stop it.
func TestResetThatCannot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, how := range map[string][]string{
		"not a directory": {harness.CriBox(t)},
		"use sudo":        {"setpriv", "--reuid", "65534", "--clear-groups", nobodys(t, harness.CriBox(t))},
	} {
		args := append(how[1:], "reset", "--yes", "--root", file, "--state", filepath.Join(dir, "state"))
		out, err := exec.Command(how[0], args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "stop the daemon") {
			t.Errorf("%v: %v\n%s", how, err, out)
		}
	}
}

// nobodys is a copy of a program that anybody can start.
func nobodys(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	copied := filepath.Join(dir, "cri-box")
	program, err := os.ReadFile(path)
	if err := errors.Join(err, os.WriteFile(copied, program, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestWhyWhileItHangs: a pod that is stuck at a step, and the answer does not wait for it.
func TestWhyWhileItHangs(t *testing.T) {
	faults := t.TempDir()
	i := harness.New(t, harness.Env("CRIBOX_FAULTS="+faults))
	point := filepath.Join(faults, "pod: attach network")
	if err := os.WriteFile(point, []byte("delay 10m"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, made := i.PodConfig(), make(chan error, 1)
	go func() { _, err := i.TryRunPod(config); made <- err }()
	i.Wait("the pod to be at the step", func() bool { _, err := os.Stat(point); return os.IsNotExist(err) })
	began := time.Now()
	out := must(i, "why", config.Metadata.Name)
	took := time.Since(began)
	select {
	case err := <-made:
		t.Fatalf("the pod did not hang: %v", err)
	default:
	}
	if !strings.Contains(out, "pod default/"+config.Metadata.Name) || !strings.Contains(out, "is not ready") || !strings.Contains(out, "at step \"attach network\" for ") {
		t.Errorf("it says\n%s", out)
	}
	t.Logf("answered in %v:\n%s", took, out)
	i.Kill() // it would hang on
	if err := <-made; err == nil {
		t.Error("the pod was made in spite of it")
	}
}
