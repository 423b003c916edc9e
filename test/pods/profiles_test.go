package pods_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSandboxProfiles: no process belongs to a pod, so its profiles confine
// nothing; one that cannot be is refused all the same.
func TestSandboxProfiles(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		s := c.Linux.SecurityContext
		s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		s.SeccompProfilePath = "runtime/default"
	})
	c := pod.Run("c", i.Image(busybox), sleeper)
	equal(t, "seccomp of a container", seccompMode(c), "0")
	for field, change := range map[string]func(*runtimeapi.LinuxSandboxSecurityContext){
		"apparmor": func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		},
		"seccomp_profile_path": func(s *runtimeapi.LinuxSandboxSecurityContext) { s.SeccompProfilePath = "mine" },
	} {
		_, err := i.TryRunPod(i.PodConfig(func(c *runtimeapi.PodSandboxConfig) { change(c.Linux.SecurityContext) }))
		checkRefused(t, "a bad "+field, field, err)
	}
}

func seccompMode(c *harness.Container) string {
	_, rest, _ := strings.Cut(c.MustExec("/bin/cat", "/proc/1/status"), "\nSeccomp:\t")
	mode, _, _ := strings.Cut(rest, "\n")
	return mode
}

// TestDeprecatedSeccompPath: the field of old kubelets, where seccomp is empty.
func TestDeprecatedSeccompPath(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	profile := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]string{"": "0", "unconfined": "0", "runtime/default": "2", "docker/default": "2", "localhost/" + profile: "2"} {
		c := pod.Run("c"+itoa(len(path)), i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.SeccompProfilePath = path }))
		equal(t, path+": mode", seccompMode(c), mode)
		equal(t, path+": mkdir fails", exec(t, c, 0, "/bin/mkdir", "/made").Code != 0, strings.HasPrefix(path, "localhost/"))
	}
}
