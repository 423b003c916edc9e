package streams_test

import (
	"fmt"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestUserNamespaceStreams: exec, attach and port-forward reach a pod with a user
// namespace; its terminals are its users'.
func TestUserNamespaceStreams(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		ids := []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids, Gids: ids}
	})
	for _, user := range []int64{0, 1000} {
		t.Run(fmt.Sprint("user ", user), func(t *testing.T) {
			c := pod.Run(fmt.Sprint("c", user), i.Image(busybox), []string{"/bin/sh"}, tty, func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: user}
			})
			a := attach(t, c, streams{Stdin: true, Stdout: true, TTY: true})
			a.stdin.Write([]byte("echo opened >$(tty) && echo wo''rks; stat -c 'owner %u:%g' $(tty)\n"))
			a.until(a.stdout, "works\r\n")
			a.until(a.stdout, fmt.Sprintf("owner %d:5\r\n", user))
			s := exec(t, c, streams{Stdin: true, Stdout: true, TTY: true}, "/bin/sh")
			s.stdin.Write([]byte("echo opened >/dev/tty && echo >$(tty) && stat -c 'owner %u:%g' $(tty); exit 3\n"))
			s.until(s.stdout, fmt.Sprintf("owner %d:5\r\n", user))
			equal(t, "end", s.end(), "3")
			p := exec(t, c, streams{Stdin: true, Stdout: true, Stderr: true}, sh("cat; echo err >/dev/stderr; id -u >/dev/stdout")...)
			p.stdin.Write([]byte("in\n"))
			p.stdin.Close()
			equal(t, "stdout", p.all(p.stdout), fmt.Sprintf("in\n%d\n", user))
			equal(t, "stderr", p.all(p.stderr), "err\n")
			a.stdin.Write([]byte("exit 5\n"))
			equal(t, "exit code", c.WaitExit().ExitCode, 5)
		})
	}
	c := pod.Run("sleeper", i.Image(probe), sleeper)
	conn, raw := connect(t, i, forwardURL(t, pod), "portforward.k8s.io")
	defer raw.Close()
	f, err := forward(t, conn, listen(t, c.PID(), "127.0.0.1:0", lengthAfterEnd), "1")
	if err != nil {
		t.Fatal(err)
	}
	f.data.Write([]byte("four"))
	f.data.Close()
	equal(t, "answer", collect(f.data).wait(t, "its end", func(_ string, ended bool) bool { return ended }), "4 bytes")
}
