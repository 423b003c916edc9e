package cli_test

import (
	"os/exec"
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
