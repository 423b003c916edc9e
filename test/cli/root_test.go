package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestServeWithoutRealRoot: root of a user namespace is told what works and what
// does not, before anything is made; the doctor says the same.
func TestServeWithoutRealRoot(t *testing.T) {
	dir := t.TempDir()
	inUserNamespace := func(args ...string) (string, error) {
		cmd := exec.Command(harness.CriBox(t), args...)
		one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := inUserNamespace("serve", "--root", dir+"/root", "--state", dir+"/state")
	if err == nil {
		t.Error("serve began to serve")
	}
	for _, want := range []string{"cannot serve as root of a user namespace", "What does not work", "What works"} {
		if !strings.Contains(out, want) {
			t.Errorf("serve does not say %q:\n%s", want, out)
		}
	}
	if out, err := exec.Command("ls", "-A", dir).Output(); err != nil || len(out) > 0 {
		t.Errorf("it has made %s (%v)", out, err)
	}
	if out, _ := inUserNamespace("doctor", "security"); !strings.Contains(out, "BAD    root") {
		t.Errorf("the doctor says\n%s", out)
	}
	if out, err := inUserNamespace("version"); err != nil {
		t.Errorf("version: %v\n%s", err, out)
	}
}

// TestNotRoot: who may not open the daemon's sockets is told that, not to look
// whether it runs.
func TestNotRoot(t *testing.T) {
	i := harness.New(t)
	dir, err := os.MkdirTemp("", "cri-box-for-all-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "cri-box")
	data, err := os.ReadFile(harness.CriBox(t))
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for command, socket := range map[string]string{"ps": i.Socket(), "why": filepath.Join(i.State, "admin.sock")} {
		cmd := exec.Command(program, "--state", i.State, command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		want := "cri-box: cannot reach the daemon at " + socket + " (you may not open it: use sudo): "
		if err == nil || !strings.HasPrefix(string(out), want) || !strings.HasSuffix(string(out), "permission denied\n") && !strings.HasSuffix(string(out), "permission denied\"\n") {
			t.Errorf("%s: %v, %s", command, err, out)
		}
	}
}

// TestWrongArguments: what is no command is an error also below another one, and who
// gives too few or too many arguments is told which ones there are.
func TestWrongArguments(t *testing.T) {
	for args, want := range map[string]string{
		"config chekc x": `there is no cri-box config "chekc"; accepted: check, default`,
		"images lss":     `there is no cri-box images "lss"; accepted: explain, import, ls, pull, rm`,
		"config check":   "accepts 1 arg(s), received 0; write cri-box config check FILE",
		"images rm":      "requires at least 1 arg(s), only received 0; write cri-box images rm IMAGE...",
		"ps x":           "; write cri-box ps",
		"run":            "; write cri-box run [flags] IMAGE [COMMAND [ARGUMENT...]]\n", // what comes later is the command's
		"exec web":       "; write cri-box exec [flags] CONTAINER COMMAND [ARGUMENT...]\n",
	} {
		out, err := exec.Command(harness.CriBox(t), strings.Fields(args)...).CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), "cri-box: ") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s", args, err, out)
		}
	}
	out, err := exec.Command(harness.CriBox(t), "config").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Usage:\n  cri-box config\n") || !strings.Contains(string(out), "\n  check ") {
		t.Errorf("config alone: %v, %s", err, out)
	}
}

// TestRelativeState: a state directory may be given by where we are, also beside a
// configuration that is wrong.
func TestRelativeState(t *testing.T) {
	i := harness.New(t)
	for _, file := range []string{config(i), filepath.Join(t.TempDir(), "missing.toml")} {
		cmd := i.Command("--state", filepath.Base(i.State), "--config", file, "ps")
		cmd.Dir = filepath.Dir(i.State)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}
