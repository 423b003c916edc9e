package pods_test

import (
	osexec "os/exec"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/apparmor"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func withAppArmor(kind runtimeapi.SecurityProfile_ProfileType, ref string) harness.ContainerOption {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

// parser has apparmor_parser do something with a profile.
func parser(t *testing.T, flag, profile string) {
	t.Helper()
	cmd := osexec.Command("apparmor_parser", flag, "--skip-cache")
	cmd.Stdin = strings.NewReader(profile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apparmor_parser %s: %v: %s", flag, err, out)
	}
}

// TestAppArmor: a kernel that has it confines by the profile asked for; one that
// has not refuses a profile by its name.
func TestAppArmor(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	const local = runtimeapi.SecurityProfile_Localhost
	_, err := pod.TryCreate(pod.ContainerConfig("c", i.Image(busybox), sleeper, withAppArmor(local, "never-loaded")))
	checkRefused(t, "a profile that nobody loaded", `"never-loaded"`, err)
	if !apparmor.Active() {
		plain := pod.Run("plain", i.Image(busybox), sleeper, withAppArmor(runtimeapi.SecurityProfile_RuntimeDefault, ""))
		equal(t, "exec", plain.MustExec("/bin/id", "-u"), "0\n")
		return
	}
	const name = "cri-box-test-deny-write"
	const profile = "profile " + name + " flags=(attach_disconnected) {\n file,\n signal,\n deny /tmp/** w,\n}\n"
	parser(t, "--replace", profile)
	defer parser(t, "--remove", profile)
	const current = "cat /proc/self/attr/apparmor/current"
	for n, c := range []struct {
		what, want string
		opts       []harness.ContainerOption
	}{
		{"nothing asked for", apparmor.Default + " (enforce)", nil},
		{"RuntimeDefault", apparmor.Default + " (enforce)", []harness.ContainerOption{withAppArmor(runtimeapi.SecurityProfile_RuntimeDefault, "")}},
		{"Unconfined", "unconfined", []harness.ContainerOption{withAppArmor(runtimeapi.SecurityProfile_Unconfined, "")}},
		{"Localhost", name + " (enforce)", []harness.ContainerOption{withAppArmor(local, name)}},
		{"Localhost in the old field", name + " (enforce)", []harness.ContainerOption{security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.ApparmorProfile = "localhost/" + name
		})}},
		{"Localhost, no_new_privs, a user", name + " (enforce)", []harness.ContainerOption{withAppArmor(local, "localhost/"+name), security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NoNewPrivs, s.RunAsUser = true, &runtimeapi.Int64Value{Value: 1000}
		})}},
	} {
		c1 := pod.Run("c"+itoa(n), i.Image(busybox), []string{"/bin/sh", "-c", current + "; exec /bin/workload on-term 4"}, c.opts...)
		c1.WaitOutput("ready")
		equal(t, c.what+": profile", strings.Split(c1.Output("stdout"), "\n")[0], c.want)
		equal(t, c.what+": profile of an exec", strings.TrimSpace(c1.MustExec("/bin/sh", "-c", current)), c.want)
		denied := exec(t, c1, 0, "/bin/touch", "/tmp/x").Code != 0
		equal(t, c.what+": writes are denied", denied, strings.HasPrefix(c.want, name))
		c1.Stop(30) // a signal that the profile has to let in
		equal(t, c.what+": exit code", c1.Status().ExitCode, 4)
	}
	parser(t, "--remove", "profile "+apparmor.Default+" {\n}\n")
	again := pod.Run("again", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	}))
	equal(t, "profile, loaded again", strings.TrimSpace(again.MustExec("/bin/sh", "-c", current)), apparmor.Default+" (enforce)")
	if r := exec(t, again, 0, "/bin/mount", "-t", "tmpfs", "none", "/tmp"); r.Code == 0 || !strings.Contains(r.Stderr, "ermission denied") {
		t.Errorf("a mount under the default profile: code %d, %s", r.Code, r.Stderr)
	}
}
