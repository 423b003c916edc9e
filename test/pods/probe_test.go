package pods_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/probe/state"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The capabilities of a container that asks for none:
// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE
// NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
const defaultCaps = "00000000a80425fb"

const noCaps = "0000000000000000"

func withSeccomp(kind runtimeapi.SecurityProfile_ProfileType) harness.ContainerOption {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: kind}
	})
}

// look runs the probe as a container's process and returns what it saw.
func look(t *testing.T, i *harness.Instance, opts ...harness.ContainerOption) *state.State {
	t.Helper()
	pod := i.RunPod()
	defer pod.Remove()
	c := pod.Run("probe", i.Image(probe), []string{"/bin/probe"}, opts...)
	if status := c.WaitExit(); status.ExitCode != 0 {
		t.Fatalf("the probe ended with %d: %s", status.ExitCode, c.Output("stderr"))
	}
	return parse(t, c.Output("stdout"))
}

func parse(t *testing.T, text string) *state.State {
	t.Helper()
	s, err := state.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkAlways asserts what holds for each process of a container, whoever it runs
// as: nothing of the daemon's own state may reach it.
func checkAlways(t *testing.T, s *state.State) {
	t.Helper()
	var fds []int
	for _, f := range s.Files {
		fds = append(fds, f.FD)
	}
	if !slices.Equal(fds, []int{0, 1, 2}) {
		t.Errorf("descriptors: %+v, want 0, 1 and 2", s.Files)
	}
	equal(t, "umask", s.View.Umask, "0022")
	equal(t, "ignored signals", len(s.Signals.Ignored), 0)
	equal(t, "blocked signals", len(s.Signals.Blocked), 0)
	equal(t, "pending signals", len(s.Signals.Pending), 0)
	equal(t, "inheritable capabilities", s.Caps.Inheritable, noCaps)
	equal(t, "ambient capabilities", s.Caps.Ambient, noCaps)
	equal(t, "scheduling policy", s.Sched.Policy, 0)
	equal(t, "nice", s.Sched.Nice, 0)
	equal(t, "ioprio", s.Sched.IOPrio, 0)
	equal(t, "timer slack", s.Sched.TimerSlack, 50000)
	equal(t, "securebits", s.Security.Securebits, 0)
	equal(t, "personality", s.Security.Personality, 0)
	equal(t, "death signal", s.Security.DeathSignal, 0)
	equal(t, "subreaper", s.Security.Subreaper, 0)
	equal(t, "dumpable", s.Security.Dumpable, 1)
	equal(t, "coredump filter", s.View.CoredumpFilter, strings.TrimSpace(readFile(t, "/proc/self/coredump_filter")))
	equal(t, "soft NOFILE", s.Limits["NOFILE"].Soft, 1024)
	equal(t, "process group of the session leader", s.Session.PGID, s.Session.SID)
	if v, times := s.Getenv("PATH"); times != 1 || v == "" {
		t.Errorf("PATH is set %d times, to %q", times, v)
	}
	for _, name := range []string{"NOTIFY_SOCKET", "CRIBOX_SECRET"} {
		if v, times := s.Getenv(name); times != 0 {
			t.Errorf("%s=%s came from the daemon's environment", name, v)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestProbeDefault(t *testing.T) {
	i := harness.New(t, harness.Env("CRIBOX_SECRET=x"))
	s := look(t, i, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault))
	checkAlways(t, s)
	equal(t, "argv", strings.Join(s.Argv, " "), "/bin/probe")
	equal(t, "cwd", s.Cwd, "/")
	equal(t, "uids", s.IDs.UIDs, [4]int{})
	equal(t, "gids", s.IDs.GIDs, [4]int{})
	equal(t, "groups", fmt.Sprint(s.IDs.Groups), "[0]")
	for what, got := range map[string]string{"permitted": s.Caps.Permitted, "effective": s.Caps.Effective, "bounding": s.Caps.Bounding} {
		equal(t, what+" capabilities", got, defaultCaps)
	}
	equal(t, "seccomp", s.Security.Seccomp, 2)
	equal(t, "no_new_privs", s.Security.NoNewPrivs, 0)
	equal(t, "pid", s.Session.PID, 1)
	equal(t, "ppid", s.Session.PPID, 0)
	equal(t, "session", s.Session.SID, 1)
	equal(t, "terminal", s.Session.TTY, "")
	equal(t, "process 1 is", s.View.InitComm, "probe")
	equal(t, "hostname", s.View.Hostname, "pod-1")
	checkEnv(t, s, map[string]string{"HOSTNAME": "pod-1", "HOME": "/root",
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
	links := slices.Sorted(slices.Values(s.View.Links))
	equal(t, "links", strings.Join(links, " "), "eth0 lo")
	checkMounts(t, s)
	checkDev(t, s)
}

// checkEnv wants exactly these variables, each once.
func checkEnv(t *testing.T, s *state.State, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got, times := s.Getenv(name); got != value || times != 1 {
			t.Errorf("%s is %q, set %d times, want %q", name, got, times, value)
		}
	}
	if len(s.Env) != len(want) {
		t.Errorf("the environment is %q, want only %q", s.Env, slices.Sorted(maps.Keys(want)))
	}
}

func checkMounts(t *testing.T, s *state.State) {
	t.Helper()
	for target, fstype := range map[string]string{
		"/": "overlay", "/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts",
		"/dev/mqueue": "mqueue", "/dev/shm": "tmpfs",
	} {
		m := s.Mount(target)
		if m == nil {
			t.Errorf("nothing is mounted on %s", target)
			continue
		}
		equal(t, "file system on "+target, m.FSType, fstype)
	}
	for _, m := range s.Mounts {
		if strings.Contains(m.Propagation, "shared:") {
			t.Errorf("the mount on %s is %s", m.Target, m.Propagation)
		}
	}
	if m := s.Mount("/sys"); m != nil && !strings.Contains(m.Options+",", "ro,") {
		t.Errorf("/sys is mounted %s", m.Options)
	}
	for _, m := range s.Mounts {
		for _, option := range strings.Split(m.SuperOpts, ",") {
			if m.Target == "/" && strings.HasPrefix(option, "upperdir=") && len(option) > 200 {
				t.Errorf("the upper directory's option is %d bytes long", len(option))
			}
		}
	}
}

func checkDev(t *testing.T, s *state.State) {
	t.Helper()
	nodes := map[string]state.Node{}
	for _, n := range s.Dev {
		nodes[n.Name] = n
	}
	for name, dev := range map[string]string{"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"} {
		n := nodes[name]
		equal(t, "/dev/"+name, n.Dev, dev)
		equal(t, "mode of /dev/"+name, n.Mode, "Dcrw-rw-rw-")
		delete(nodes, name)
	}
	for name, link := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		equal(t, "link /dev/"+name, nodes[name].Link, link)
		delete(nodes, name)
	}
	for _, name := range []string{"pts", "pts/ptmx", "shm", "mqueue", "core"} {
		delete(nodes, name)
	}
	for name, n := range nodes {
		t.Errorf("/dev has %s too: %+v", name, n)
	}
}

func TestProbeNonRoot(t *testing.T) {
	i := harness.New(t)
	s := look(t, i, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault), func(c *runtimeapi.ContainerConfig) {
		sc := c.Linux.SecurityContext
		sc.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1001}
		sc.SupplementalGroups = []int64{2001, 2000}
		sc.NoNewPrivs = true
		c.WorkingDir = "/made/for/it"
		c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b=c d\n")}, {Key: "HOSTNAME", Value: []byte("mine")}}
	})
	checkAlways(t, s)
	equal(t, "uids", s.IDs.UIDs, [4]int{1000, 1000, 1000, 1000})
	equal(t, "gids", s.IDs.GIDs, [4]int{1001, 1001, 1001, 1001})
	groups := slices.Sorted(slices.Values(s.IDs.Groups))
	equal(t, "groups", fmt.Sprint(groups), "[1001 2000 2001]")
	equal(t, "permitted capabilities", s.Caps.Permitted, noCaps)
	equal(t, "effective capabilities", s.Caps.Effective, noCaps)
	equal(t, "bounding capabilities", s.Caps.Bounding, defaultCaps)
	equal(t, "no_new_privs", s.Security.NoNewPrivs, 1)
	equal(t, "seccomp", s.Security.Seccomp, 2)
	equal(t, "cwd", s.Cwd, "/made/for/it")
	equal(t, "A", getenv(s, "A"), "b=c d\n")
	equal(t, "HOSTNAME", getenv(s, "HOSTNAME"), "mine")
}

func getenv(s *state.State, name string) string {
	value, _ := s.Getenv(name)
	return value
}

func TestProbeCapabilities(t *testing.T) {
	i := harness.New(t)
	s := look(t, i, security(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}
		sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}))
	checkAlways(t, s)
	equal(t, "effective capabilities", s.Caps.Effective, "0000000000001000")
	equal(t, "bounding capabilities", s.Caps.Bounding, "0000000000001000")
	equal(t, "seccomp", s.Security.Seccomp, 0)
	// keyctl is allowed without the filter: the session keyring is the container's own.
	host := strings.TrimSpace(readFile(t, "/proc/self/sessionid"))
	if s.Session.KeyringSerial == 0 || strings.Contains(s.Session.Keyring, "_ses."+host) || strings.Contains(s.Session.Keyring, "_uid_ses") {
		t.Errorf("the session keyring is %q, serial %d", s.Session.Keyring, s.Session.KeyringSerial)
	}
}

func TestProbePrivileged(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := pod.Run("probe", i.Image(probe), []string{"/bin/probe"}, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
	c.WaitExit()
	s := parse(t, c.Output("stdout"))
	checkAlways(t, s)
	own := capabilities(t)
	equal(t, "effective capabilities", s.Caps.Effective, own)
	equal(t, "seccomp", s.Security.Seccomp, 0)
	if m := s.Mount("/sys"); m == nil || !strings.HasPrefix(m.Options, "rw") {
		t.Errorf("/sys is mounted %+v", m)
	}
}

// capabilities are what the daemon can give away: what it has itself.
func capabilities(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(readFile(t, "/proc/self/status"), "CapBnd:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func TestProbeTTY(t *testing.T) {
	i := harness.New(t)
	s := look(t, i, func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	checkAlways(t, s)
	equal(t, "TERM", getenv(s, "TERM"), "xterm")
	if s.Session.TTY == "" || s.Session.Foreground != s.Session.PGID {
		t.Errorf("the terminal is not the controlling one: %+v", s.Session)
	}
	for _, f := range s.Files {
		if !strings.HasPrefix(f.Kind, "char 136:") || !strings.HasPrefix(f.Target, "/dev/") {
			t.Errorf("descriptor %d is %s, %s", f.FD, f.Kind, f.Target)
		}
	}
	if !slices.ContainsFunc(s.Dev, func(n state.Node) bool { return n.Name == "console" && strings.HasPrefix(n.Dev, "136:") }) {
		t.Error("/dev/console is not the terminal")
	}
}

// TestProbeExec: what is executed in a container starts as the container did.
func TestProbeExec(t *testing.T) {
	i := harness.New(t)
	for name, opt := range map[string]harness.ContainerOption{
		"root":     func(*runtimeapi.ContainerConfig) {},
		"non-root": security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 1000} }),
	} {
		t.Run(name, func(t *testing.T) {
			pod := i.RunPod()
			first := pod.Run("first", i.Image(probe), []string{"/bin/probe"}, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault), opt)
			first.WaitExit()
			want := parse(t, first.Output("stdout"))
			c := pod.Run("c", i.Image(probe), sleeper, withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault), opt)
			got := parse(t, c.MustExec("/bin/probe"))
			checkAlways(t, got)
			equal(t, "ids", fmt.Sprint(got.IDs), fmt.Sprint(want.IDs))
			equal(t, "capabilities", got.Caps, want.Caps)
			equal(t, "environment", strings.Join(got.Env, "\n"), strings.Join(want.Env, "\n"))
			equal(t, "cwd", got.Cwd, want.Cwd)
			equal(t, "seccomp", got.Security.Seccomp, want.Security.Seccomp)
			equal(t, "no_new_privs", got.Security.NoNewPrivs, want.Security.NoNewPrivs)
			equal(t, "limits", fmt.Sprint(got.Limits), fmt.Sprint(want.Limits))
			equal(t, "oom_score_adj", got.View.OOMScoreAdj, want.View.OOMScoreAdj)
			equal(t, "process 1 is", got.View.InitComm, "workload")
			equal(t, "parent", got.Session.PPID, 0)
			equal(t, "own session", got.Session.SID, got.Session.PID)
			for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
				equal(t, kind+" namespace", got.Namespaces[kind], harness.Namespace(c.PID(), kind))
			}
			checkOwnCgroups(t, got.View.Cgroup)
		})
	}
}

// checkOwnCgroups wants what is executed to be in the container's cgroups, as its
// own cgroup namespace shows them: all are the root, but on v2 an exec has a group
// below, so that its tree can be ended whole.
func checkOwnCgroups(t *testing.T, lines []string) {
	t.Helper()
	for _, line := range lines {
		f := strings.SplitN(line, ":", 3)
		if f[2] != "/" && !(f[0] == "0" && strings.HasPrefix(f[2], "/exec-")) {
			t.Errorf("cgroup %s", line)
		}
	}
}
