package program

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/probe/state"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func compile(t *testing.T, in ContainerInput) *Program {
	t.Helper()
	p, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func namespace(t *testing.T, name string) string {
	return must[string](t)(os.Readlink("/proc/self/ns/" + name))
}

// TestContainer starts a root container with namespaces of its own.
func TestContainer(t *testing.T) {
	s := newScene(t)
	in := s.container()
	in.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	in.Spec.Process.OOMScoreAdj = new(int)
	*in.Spec.Process.OOMScoreAdj = 321
	st := s.spawn(compile(t, in)).probe(s)
	equal(t, "argv", st.Argv, in.Spec.Process.Args)
	equal(t, "env", st.Env, in.Spec.Process.Env)
	equal(t, "cwd", st.Cwd, "/tmp")
	var fds []int
	for _, f := range st.Files {
		fds = append(fds, f.FD)
	}
	equal(t, "descriptors", fds, []int{0, 1, 2})
	equal(t, "capabilities", st.Caps, state.Caps{Inheritable: "0000000000000000", Permitted: "00000000000004e3",
		Effective: "00000000000004e3", Bounding: "00000000000004e3", Ambient: "0000000000000000"})
	equal(t, "NOFILE", st.Limits["NOFILE"], state.Limit{Soft: 100, Hard: 200})
	// What is ignored here already (make ignores 32) is the spawner process's to reset.
	equal(t, "signals", st.Signals, state.Signals{Ignored: ignoredHere(t), Blocked: []int{}, Pending: []int{}})
	equal(t, "session", []int{st.Session.PID, st.Session.SID, st.Session.PGID}, []int{1, 1, 1})
	equal(t, "umask", st.View.Umask, "0022")
	equal(t, "oom_score_adj", st.View.OOMScoreAdj, 321)
	equal(t, "host name", st.View.Hostname, "box")
	equal(t, "securebits", st.Security.Securebits, 0)
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup"} {
		if st.Namespaces[ns] == namespace(t, ns) {
			t.Errorf("the %s namespace is the host's", ns)
		}
	}
	var mounts []string
	for _, m := range st.Mounts {
		mounts = append(mounts, m.FSType+" "+m.Target+" "+m.Options)
	}
	equal(t, "number of mounts", len(mounts), 6)
	for _, want := range []string{"tmpfs / rw,relatime", "sysfs /sys ro,nosuid,nodev,noexec,relatime",
		"mqueue /dev/mqueue rw,nosuid,nodev,noexec,relatime", "proc /proc rw,nosuid,nodev,noexec,relatime"} {
		if !slices.Contains(mounts, want) {
			t.Errorf("mount %q is missing in %q", want, mounts)
		}
	}
}

// TestAffinity: the CPUs that the daemon is kept on, as by systemd's CPUAffinity, are
// not the container's.
func TestAffinity(t *testing.T) {
	runtime.LockOSThread() // what it starts inherits its CPUs
	defer runtime.UnlockOSThread()
	var before, every, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &before)
	every.Fill()
	if err := unix.SchedSetaffinity(0, &every); err != nil {
		t.Fatal(err)
	}
	want := affinity(t)
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	s := newScene(t)
	equal(t, "CPUs", s.spawn(compile(t, s.container())).probe(s).Sched.Affinity, want)
}

// affinity is the list of the CPUs that the calling thread may run on.
func affinity(t *testing.T) string {
	b := must[[]byte](t)(os.ReadFile("/proc/thread-self/status"))
	_, rest, _ := strings.Cut(string(b), "Cpus_allowed_list:\t")
	list, _, _ := strings.Cut(rest, "\n")
	return list
}

// profile allows all but some calls; those answer ENOTTY.
func profile(t *testing.T, refused ...string) (*specs.LinuxSeccomp, Filter) {
	t.Helper()
	errno := uint(unix.ENOTTY)
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: refused, Action: specs.ActErrno, ErrnoRet: &errno}}}
	return s, must[Filter](t)(CompileSeccomp(s, hostArch))
}

// TestRights starts a non-root container with a filter, with and without
// no_new_privs. The filter refuses all that a late load would need.
func TestRights(t *testing.T) {
	for _, noNewPrivs := range []bool{false, true} {
		t.Run(fmt.Sprint("no_new_privs=", noNewPrivs), func(t *testing.T) {
			s := newScene(t)
			in := s.container()
			pr := in.Spec.Process
			pr.NoNewPrivileges = noNewPrivs
			pr.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1002}, Umask: ptr(uint32(0o027))}
			pr.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE"}
			refused := []string{"setresuid", "setgroups", "seccomp", "prctl"}
			if noNewPrivs {
				refused = append(refused, "capset")
			}
			in.Spec.Linux.Seccomp, in.Filter = profile(t, refused...)
			st := s.spawn(compile(t, in)).probe(s)
			equal(t, "ids", st.IDs, state.IDs{UIDs: [4]int{1000, 1000, 1000, 1000}, GIDs: [4]int{1001, 1001, 1001, 1001}, Groups: []int{5, 1002}})
			equal(t, "capabilities", st.Caps, state.Caps{Inheritable: "0000000000000400", Permitted: "0000000000000400",
				Effective: "0000000000000400", Bounding: "00000000000004e3", Ambient: "0000000000000400"})
			equal(t, "umask", st.View.Umask, "0027")
			equal(t, "seccomp", st.Security.Seccomp, 2)
			equal(t, "filters", st.Security.Filters, 1)
			want := 0
			if noNewPrivs {
				want = 1
			}
			equal(t, "no_new_privs", st.Security.NoNewPrivs, want)
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestPaths masks and protects paths, among them missing ones, and one in a
// mount.
func TestPaths(t *testing.T) {
	s := newScene(t)
	in := s.container()
	in.Spec.Linux.MaskedPaths = []string{"/proc/missing", "/etc/missing/below", "/proc/version", "/proc/irq", "/proc/keys", "/sys/firmware", "/sys/kernel"}
	in.Spec.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/missing", "/proc/cpuinfo", "/dev/null/x"}
	st := s.spawn(compile(t, in)).probe(s)
	for target, want := range map[string]string{
		"/proc/version": "devtmpfs", "/proc/keys": "devtmpfs", "/proc/irq": "tmpfs", "/sys/firmware": "tmpfs", "/sys/kernel": "tmpfs",
	} {
		if m := st.Mount(target); m == nil || m.FSType != want {
			t.Errorf("%s is not masked: %+v", target, m)
		}
	}
	for _, target := range []string{"/proc/sys", "/proc/cpuinfo"} {
		if m := st.Mount(target); m == nil || m.Options != "ro,nosuid,nodev,noexec,relatime" {
			t.Errorf("%s is not read-only: %+v", target, m)
		}
	}
	equal(t, "number of mounts", len(st.Mounts), 6+5+2)
}

// TestNestedMounts puts volumes into volumes whose mount points are missing.
func TestNestedMounts(t *testing.T) {
	s := newScene(t)
	in := s.container()
	vol := s.giveFS("mount.5", "tmpfs")
	if err := unix.Symlinkat("/vol/real", int(vol.Fd()), "link"); err != nil {
		t.Fatal(err)
	}
	s.mkdir(vol, "real")
	s.giveFS("mount.6", "tmpfs")
	s.giveTree("mount.7", "/etc/hostname", 0)
	s.giveFS("mount.8", "tmpfs")
	in.FileMounts[7] = true
	in.Spec.Mounts = append(in.Spec.Mounts,
		specs.Mount{Type: "bind", Destination: "/vol"},
		specs.Mount{Type: "bind", Destination: "/vol/a/b"},
		specs.Mount{Type: "bind", Destination: "/vol/a/b/c/file"},
		specs.Mount{Type: "bind", Destination: "/vol/link/d"})
	st := s.spawn(compile(t, in)).probe(s)
	for _, target := range []string{"/vol", "/vol/a/b", "/vol/a/b/c/file", "/vol/real/d"} {
		if st.Mount(target) == nil {
			t.Errorf("nothing is mounted on %s", target)
		}
	}
}

// TestMagicLink has an image and a volume that lead a mount to a magic link of
// procfs, behind which is the host.
func TestMagicLink(t *testing.T) {
	s := newScene(t)
	in := s.container()
	if err := unix.Symlinkat("/vol/self/root", int(s.fds["rootfs"].Fd()), "out"); err != nil {
		t.Fatal(err)
	}
	s.giveFS("mount.5", "proc")
	s.giveFS("mount.6", "tmpfs")
	in.Spec.Mounts = append(in.Spec.Mounts,
		specs.Mount{Type: "bind", Destination: "/vol"}, specs.Mount{Type: "bind", Destination: "/out/tmp"})
	r := s.spawn(compile(t, in))
	r.wait()
	equal(t, "failure", r.failure(), "cannot find /out/tmp, where bind is to be mounted: too many levels of symbolic links")
}

// TestPathSearch finds the command in PATH, and tells the most useful error.
func TestPathSearch(t *testing.T) {
	for _, c := range []struct{ name, path, command, want string }{
		{"found", "/missing:/etc/file:relative::/tmp:/", "probe", ""},
		{"forbidden", "/missing:/tmp:/etc", "file", "cannot execute /etc/file: permission denied"},
		{"missing", "/missing:/tmp", "file", `cannot find "file" in /missing:/tmp: no such file or directory`},
		{"direct", "/", "/etc/missing", "cannot execute /etc/missing: no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			in := s.container()
			s.mkfile(s.fds["rootfs"], "etc/file", "")
			in.Spec.Process.Args = []string{c.command}
			in.Spec.Process.Env = []string{"PATH=/wrong", "PATH=" + c.path}
			r := s.spawn(compile(t, in))
			_, _, ws := r.output(s)
			equal(t, "failure", r.failure(), c.want)
			if want := map[bool]int{true: 0, false: 127}[c.want == ""]; ws.ExitStatus() != want {
				t.Errorf("status %d, want %d", ws.ExitStatus(), want)
			}
		})
	}
}

// sleeper starts a container that lives until it is killed: its output goes to
// a full pipe.
func sleeper(t *testing.T) (in ContainerInput, pid int) {
	s := newScene(t)
	in = s.container()
	p := compile(t, in)
	s.full = true
	r := s.spawn(p)
	t.Cleanup(func() {
		unix.Kill(r.pid, unix.SIGKILL)
		r.wait()
	})
	if f := r.failure(); f != "" {
		t.Fatal(f)
	}
	return in, r.pid
}

func pidfd(t *testing.T, s *scene, pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	s.give("container", fd, err)
}

// TestExec starts a process in a running container, as root and as a user with
// a filter that refuses clone.
func TestExec(t *testing.T) {
	in, pid := sleeper(t)
	for _, user := range []uint32{0, 1000} {
		t.Run(fmt.Sprint(user), func(t *testing.T) {
			s := newScene(t)
			pidfd(t, s, pid)
			process := *in.Spec.Process
			process.User.UID = user
			spec := *in.Spec
			linux := *in.Spec.Linux
			spec.Linux = &linux
			filter := Filter{}
			if user != 0 {
				process.NoNewPrivileges = true
				linux.Seccomp, _ = profile(t, "setsid", "capset", "prctl")
				siblings := specs.LinuxSeccompArg{Index: 0, Value: unix.CLONE_PARENT, ValueTwo: unix.CLONE_PARENT, Op: specs.OpMaskedEqual}
				linux.Seccomp.Syscalls = append(linux.Seccomp.Syscalls,
					specs.LinuxSyscall{Names: []string{"clone"}, Action: specs.ActKillProcess, Args: []specs.LinuxSeccompArg{siblings}})
				filter = must[Filter](t)(CompileSeccomp(linux.Seccomp, hostArch))
			}
			p := must[*Program](t)(Exec(ExecInput{ID: "test", Arch: hostArch, Spec: &spec, Process: &process, Filter: filter}))
			r := s.spawn(p)
			st := r.probe(s)
			if st.Session.PID < 2 || st.Session.PPID != 0 || st.Session.SID != st.Session.PID {
				t.Errorf("session %+v: not a session of its own in the container's pid namespace", st.Session)
			}
			for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup"} {
				want := must[string](t)(os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns)))
				equal(t, ns, st.Namespaces[ns], want)
			}
			equal(t, "user", st.IDs.UIDs[0], int(user))
			equal(t, "cwd", st.Cwd, "/tmp")
			equal(t, "descriptors", len(st.Files), 3)
			equal(t, "filters", st.Security.Filters, map[bool]int{true: 0, false: 1}[user == 0])
		})
	}
}

// TestSharedPID starts a container in the pid and network namespaces of another.
func TestSharedPID(t *testing.T) {
	_, pid := sleeper(t)
	s := newScene(t)
	in := s.container()
	for i, ns := range []string{"pid", "net"} {
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, ns)
		s.giveOpen("ns."+ns, path, unix.O_RDONLY)
		in.Spec.Linux.Namespaces[i].Path = path
	}
	st := s.spawn(compile(t, in)).probe(s)
	for _, ns := range []string{"pid", "net"} {
		want := must[string](t)(os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns)))
		equal(t, ns, st.Namespaces[ns], want)
	}
	equal(t, "first process seen", st.View.InitComm, "probe")
	if st.Session.PID < 2 || st.Session.SID != st.Session.PID {
		t.Errorf("session %+v", st.Session)
	}
}

// TestTerminal gives a container a terminal, and one an exec.
func TestTerminal(t *testing.T) {
	s := newScene(t)
	in := s.container()
	devpts := s.giveFS("mount.5", "devpts", "ptmxmode", "0666")
	in.Spec.Mounts = append(in.Spec.Mounts, specs.Mount{Type: "devpts", Destination: "/dev/pts"})
	s.mkdir(s.fds["mount.0"], "pts")
	master, slave := s.ptyIn(t, devpts, "ptmx")
	s.fds["tty"] = slave
	in.Spec.Process.Terminal = true
	r := s.spawn(compile(t, in))
	st := must[*state.State](t)(state.Parse(readTerminal(t, master, r)))
	for i, f := range st.Files {
		if f.FD != i || !strings.HasPrefix(f.Kind, "char 136:") {
			t.Errorf("descriptor %+v is not the terminal", f)
		}
	}
	if !strings.HasPrefix(st.Session.TTY, "136:") || st.Session.Foreground != 1 {
		t.Errorf("the terminal does not control the session: %+v", st.Session)
	}
	if m := st.Mount("/dev/console"); m == nil || m.FSType != "devpts" {
		t.Errorf("/dev/console is %+v", m)
	}
}

func TestTerminalExec(t *testing.T) {
	in, pid := sleeper(t)
	s := newScene(t)
	pidfd(t, s, pid)
	master, slave := s.pty(t)
	s.fds["tty"] = slave
	process := *in.Spec.Process
	process.Terminal = true
	r := s.spawn(must[*Program](t)(Exec(ExecInput{ID: "test", Arch: hostArch, Spec: in.Spec, Process: &process})))
	st := must[*state.State](t)(state.Parse(readTerminal(t, master, r)))
	if !strings.HasPrefix(st.Session.TTY, "136:") || st.Session.Foreground != st.Session.PID || st.Session.PID < 2 {
		t.Errorf("the terminal does not control the session: %+v", st.Session)
	}
}

// pty makes a terminal of the host.
func (s *scene) pty(t *testing.T) (master, slave *os.File) {
	dir := must[*os.File](t)(os.Open("/dev/pts"))
	defer dir.Close()
	return s.ptyIn(t, dir, "/dev/ptmx")
}

// ptyIn makes a terminal in an instance of devpts.
func (s *scene) ptyIn(t *testing.T, devpts *os.File, ptmx string) (master, slave *os.File) {
	fd := must[int](t)(unix.Openat(int(devpts.Fd()), ptmx, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0))
	master = os.NewFile(uintptr(fd), "ptmx")
	master.SetReadDeadline(time.Now().Add(patience))
	t.Cleanup(func() { master.Close() })
	n := must[int](t)(unix.IoctlGetInt(fd, unix.TIOCGPTN))
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	name := strconv.Itoa(n)
	return master, os.NewFile(uintptr(must[int](t)(unix.Openat(int(devpts.Fd()), name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0))), name)
}

// readTerminal reads the process's one line.
func readTerminal(t *testing.T, master *os.File, r *run) []byte {
	t.Helper()
	if f := r.failure(); f != "" {
		t.Fatal(f)
	}
	line := must[[]byte](t)(bufio.NewReader(master).ReadBytes('\n'))
	r.wait()
	return line
}

// TestCgroupMounts puts hierarchies into the tmpfs of a cgroup v1 mount, joins by
// tasks files, and makes a cgroup v2 mount. The kernel treats all mounts alike,
// so any will do for the hierarchies.
func TestCgroupMounts(t *testing.T) {
	s := newScene(t)
	in := s.container()
	in.TasksFDs = []string{"tasks.a"}
	tasks := s.memfd(nil)
	s.fds["tasks.a"] = tasks
	in.UnshareCgroup = true
	in.Spec.Mounts = append(in.Spec.Mounts, specs.Mount{Type: "cgroup", Destination: "/sys/fs/cgroup"})
	in.CgroupMounts = []string{"cgroup.cpu,cpuacct", "cgroup.pids"}
	s.giveFS("mount.5", "tmpfs", "mode", "755")
	s.giveFS("cgroup.cpu,cpuacct", "tmpfs")
	s.giveFS("cgroup.pids", "tmpfs")
	p := compile(t, in)
	equal(t, "cgroup namespace of the clone", p.Clone&unix.CLONE_NEWCGROUP, uint64(0))
	st := s.spawn(p).probe(s)
	for _, target := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/pids"} {
		if m := st.Mount(target); m == nil || !strings.HasPrefix(m.Options, "ro,") {
			t.Errorf("%s is not mounted read-only: %+v", target, m)
		}
	}
	content := make([]byte, 8)
	n, _ := tasks.ReadAt(content, 0)
	equal(t, "what was written to tasks", string(content[:n]), "0")
	if st.Namespaces["cgroup"] == namespace(t, "cgroup") {
		t.Error("the cgroup namespace is the host's")
	}

	s = newScene(t)
	in = s.container()
	in.Spec.Mounts = append(in.Spec.Mounts, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid"}})
	st = s.spawn(compile(t, in)).probe(s)
	if m := st.Mount("/sys/fs/cgroup"); m == nil || m.FSType != "cgroup2" || m.Options != "ro,nosuid,relatime" || m.Source != "cgroup" {
		t.Errorf("cgroup v2 mount: %+v", m)
	}
}

// TestCwdOfUser has a working directory that is closed to root, here a root
// without CAP_DAC_OVERRIDE: it is entered as the user.
func TestCwdOfUser(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(dir, "own")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	l := must[*list](t)(newList("test", hostArch, 8))
	s := &starter{list: l, process: &specs.Process{Cwd: dir, User: specs.User{UID: 1000, GID: 1000}}}
	l.call("go to the root", "chdir", l.Str("/"))
	few := capSet(1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID)
	s.capset("close the directory", caps{effective: few, permitted: few})
	s.enterCwd()
	s.user()
	l.call("make a directory here", "mkdirat", cwd, l.Str("made"), Int(0o755))
	sc := newScene(t)
	r := sc.spawn(must[*Program](t)(l.done()))
	r.wait()
	equal(t, "failure", r.failure(), "")
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Error(err)
	}
}

// ignoredHere lists the signals that the test itself was started with ignored.
func ignoredHere(t *testing.T) []int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "SigIgn:\t")
	mask, err := strconv.ParseUint(rest[:16], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	list := []int{}
	for n := range 64 {
		if mask&(1<<n) != 0 {
			list = append(list, n+1)
		}
	}
	return list
}
