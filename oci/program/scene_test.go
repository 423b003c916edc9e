package program

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/probe/state"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// roleVar makes the test binary act as a spawner instead of running tests.
const roleVar = "CRI_BOX_PROGRAM_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "spawner" {
		spawnerMain()
	}
	code := m.Run()
	if probeDir != "" {
		os.RemoveAll(probeDir)
	}
	os.Exit(code)
}

// spawnerMain spawns the program in descriptor 3, with the page in 4 and the
// donated descriptors from 5, and prints the Result.
func spawnerMain() {
	fds := []int{}
	for i := range len(os.Args) - 1 {
		fds = append(fds, 5+i)
	}
	var st unix.Stat_t
	check(unix.Fstat(3, &st))
	flat, err := unix.Mmap(3, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	check(err)
	page, err := unix.Mmap(4, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(err)
	check(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	res, err := NewSpawner(page).Spawn(flat, fds)
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(res))
	os.Exit(0)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A scene is what a program needs from its caller: descriptors by name.
type scene struct {
	t   *testing.T
	fds map[string]*os.File
	// full fills the standard output of what is spawned, so that it waits there.
	full bool
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, fds: map[string]*os.File{}}
	t.Cleanup(func() {
		for _, f := range s.fds {
			f.Close()
		}
	})
	return s
}

func (s *scene) give(name string, fd int, err error) *os.File {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	s.fds[name] = f
	return f
}

// giveOpen opens a path as the descriptor of that name.
func (s *scene) giveOpen(name, path string, flags int) *os.File {
	s.t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	return s.give(name, fd, err)
}

func (s *scene) giveTree(name, path string, flags uint) *os.File {
	s.t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return s.give(name, fd, err)
}

// givePrivate makes a mount namespace that what happens in stays in.
func (s *scene) givePrivate(name string) {
	s.t.Helper()
	fd, err := -1, error(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and ends with the thread
		if err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}()
	<-done
	s.give(name, fd, err)
}

// giveFS makes a detached mount of a new file system.
func (s *scene) giveFS(name, kind string, options ...string) *os.File {
	s.t.Helper()
	fs := must[int](s.t)(unix.Fsopen(kind, unix.FSOPEN_CLOEXEC))
	defer unix.Close(fs)
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		s.t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	return s.give(name, fd, err)
}

func (s *scene) mkdir(dir *os.File, names ...string) {
	s.t.Helper()
	for _, n := range names {
		if err := unix.Mkdirat(int(dir.Fd()), n, 0o755); err != nil {
			s.t.Fatal(n, err)
		}
	}
}

func (s *scene) mkfile(dir *os.File, name, content string) {
	s.t.Helper()
	fd := must[int](s.t)(unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644))
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(content)); err != nil {
		s.t.Fatal(err)
	}
}

// A run is a spawned program.
type run struct {
	t      *testing.T
	p      *Program
	page   []byte
	pid    int // the process that executes
	stdout *os.File
	stderr *os.File
}

// spawn runs a program's list and returns once it has executed or failed. The
// process is this test's child.
func (s *scene) spawn(p *Program) *run {
	s.t.Helper()
	r := &run{t: s.t, p: p}
	if s.fds["tty"] == nil {
		r.stdout, r.stderr = s.pipe("stdout"), s.pipe("stderr")
		if s.full {
			fillPipe(s.fds["stdout"])
		}
		s.giveOpen("stdin", "/dev/null", unix.O_RDONLY)
	}
	pageFile := s.memfd(make([]byte, PageSize))
	r.page = must[[]byte](s.t)(unix.Mmap(int(pageFile.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	s.t.Cleanup(func() { unix.Munmap(r.page) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=spawner")
	flat := must[[]byte](s.t)(p.Encode())
	cmd.ExtraFiles = []*os.File{s.memfd(flat), pageFile}
	for _, name := range p.FDs() {
		f := s.fds[name]
		if f == nil {
			s.t.Fatalf("the program needs <%s>", name)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		cmd.Args = append(cmd.Args, name)
	}
	cmd.Stderr = os.Stderr
	out := must[[]byte](s.t)(cmd.Output())
	var res Result
	if err := json.Unmarshal(out, &res); err != nil {
		s.t.Fatal(err)
	}
	r.pid = res.PID
	if res.Prepared != 0 {
		(&run{t: s.t, pid: res.Prepared}).wait()
	}
	return r
}

func (s *scene) pipe(name string) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.fds[name] = w
	r.SetReadDeadline(time.Now().Add(patience))
	s.t.Cleanup(func() { r.Close() })
	return r
}

func fillPipe(w *os.File) {
	fd := int(w.Fd())
	unix.SetNonblock(fd, true)
	defer unix.SetNonblock(fd, false)
	for _, size := range []int{4096, 1} {
		for err := error(nil); err == nil; {
			_, err = unix.Write(fd, make([]byte, size))
		}
	}
}

func (s *scene) memfd(content []byte) *os.File {
	f := os.NewFile(uintptr(must[int](s.t)(unix.MemfdCreate("test", unix.MFD_CLOEXEC))), "memfd")
	s.t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		s.t.Fatal(err)
	}
	return f
}

// patience is how long anything may take that a test waits for.
const patience = 20 * time.Second

// wait reaps the process, which is killed if it does not end.
func (r *run) wait() unix.WaitStatus {
	r.t.Helper()
	timer := time.AfterFunc(patience, func() { unix.Kill(r.pid, unix.SIGKILL) })
	defer timer.Stop()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(r.pid, &ws, 0, nil); err != nil {
		r.t.Fatal(err)
	}
	return ws
}

// failure is the call that failed, as a person reads it; empty if none did.
func (r *run) failure() string {
	op, errno := Report(r.page, len(r.p.Ops))
	if errno == 0 {
		return ""
	}
	return fmt.Sprintf("cannot %s: %v", r.p.Ops[op].Why, errno)
}

// output waits for the process's end and gives what it has printed.
func (r *run) output(s *scene) (stdout, stderr string, ws unix.WaitStatus) {
	s.fds["stdout"].Close()
	s.fds["stderr"].Close()
	o := must[[]byte](r.t)(io.ReadAll(r.stdout))
	e := must[[]byte](r.t)(io.ReadAll(r.stderr))
	return string(o), string(e), r.wait()
}

// probe gives what the probe program found.
func (r *run) probe(s *scene) *state.State {
	r.t.Helper()
	stdout, stderr, ws := r.output(s)
	if f := r.failure(); f != "" {
		r.t.Fatalf("%s\n%s", f, r.p.Text())
	}
	if ws.ExitStatus() != 0 {
		r.t.Fatalf("status %#x, stderr %s", ws, stderr)
	}
	return must[*state.State](r.t)(state.Parse([]byte(stdout)))
}

var (
	probeDir   string
	buildProbe = sync.OnceValues(func() (string, error) {
		if built := os.Getenv("CRIBOX_BIN"); built != "" { // hack/vm: there is no Go
			return filepath.Join(built, "probe"), nil
		}
		dir, err := os.MkdirTemp("", "program-test")
		if err != nil {
			return "", err
		}
		probeDir = dir
		bin := filepath.Join(dir, "probe")
		cmd := exec.Command("go", "build", "-ldflags=-E=probe_entry", "-o", bin, "../../test/probe")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return bin, nil
	})
)

// container sets a scene for a container that runs the probe: a tmpfs as root
// with /dev, /proc, /sys and /probe.
func (s *scene) container() ContainerInput {
	s.givePrivate("ns.mnt")
	root := s.giveFS("rootfs", "tmpfs", "mode", "755")
	s.mkdir(root, "proc", "sys", "dev", "tmp", "vol", "etc")
	s.mkfile(root, "probe", "")
	dev := s.giveFS("mount.0", "tmpfs", "mode", "755")
	for name, minor := range map[string]uint32{"null": 3, "zero": 5} {
		if err := unix.Mknodat(int(dev.Fd()), name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			s.t.Fatal(err)
		}
	}
	s.mkdir(dev, "mqueue")
	s.giveTree("mount.1", must[string](s.t)(buildProbe()), 0)
	s.giveFS("mask.dir", "tmpfs", "mode", "555")
	s.giveTree("mask.file", "/dev/null", 0)
	return ContainerInput{
		ID: "test", Arch: hostArch,
		Spec: &specs.Spec{
			Process: &specs.Process{
				Args: []string{"/probe", "one", "two words"}, Env: []string{"PATH=/bin:/", "A=b"}, Cwd: "/tmp",
				Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
			},
			Mounts: []specs.Mount{
				{Type: "tmpfs", Destination: "/dev"},
				{Type: "bind", Destination: "/probe", Source: "/probe"},
				{Type: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Type: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Type: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			},
			Linux: &specs.Linux{
				Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			},
			Hostname: "box",
		},
		FileMounts: map[int]bool{1: true},
	}
}

var defaultCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"}

func errnoOf(err error) syscall.Errno {
	e, _ := err.(syscall.Errno)
	return e
}
