package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/program"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Streams says which standard streams a command has. With TTY there is one
// terminal instead.
type Streams struct{ Stdin, Stdout, Stderr, TTY bool }

// An Exec is a command for a running container.
type Exec struct {
	ID          string // its own, new
	ContainerID string
	Cgroup      string // the container's group
	Process     *specs.Process
	Spec        *specs.Spec // the container's
	Streams     Streams
}

// A Session is a command that runs. Its files are in the poller.
type Session struct {
	// Stdin, Stdout, Stderr and TTY are our ends, nil where there is none.
	Stdin, Stdout, Stderr, TTY *os.File
	PID                        int

	dir    *os.File // the group of the container, with the command's own in it
	name   string
	groups *cgroup.System
	path   string // of the command's own group
	pidfd  func() (*os.File, error)
	busy   func() // Close: something lives on in the group
}

// execGroup names the group of a command within that of its container, on the
// v2 hierarchy: all that the command starts can be killed by it, also what
// called setsid(2).
func execGroup(id string) string { return execPrefix + id[:12] }

const execPrefix = "exec-"

// Exec starts a command in a running container.
func (r *Runtime) Exec(ctx context.Context, e Exec) (*Session, error) {
	group, err := r.cgroupOf(e.ContainerID, e.Cgroup)
	if err != nil {
		return nil, err
	}
	s := &Session{groups: r.Cgroups, path: e.Cgroup + "/" + execGroup(e.ID),
		pidfd: func() (*os.File, error) { return r.Keeper.FD(e.ID, keeper.FDPid) },
		busy:  func() { r.left.add(e.ContainerID, execGroup(e.ID)) }}
	fds := map[string]*os.File{}
	defer func() { closeFiles(fds) }()
	in := program.ExecInput{ID: e.ContainerID, Arch: runtime.GOARCH, Spec: e.Spec, Process: e.Process, LastCap: lastCap()}
	if in.Filter, err = r.filters.compile(e.Spec.Linux.Seccomp); err != nil {
		return nil, err
	}
	if in.CgroupV2, in.TasksFDs, err = joinGroup(group, fds); err != nil {
		return nil, err
	}
	if fds["container"], err = r.Keeper.FD(e.ContainerID, keeper.FDPid); err != nil {
		return nil, err
	}
	if err := s.ownGroup(fds, in.CgroupV2, e.ID); err != nil {
		return nil, err
	}
	if s.dir != nil {
		r.left.sweep(e.ContainerID, s.dir)
	}
	if err := s.open(e, fds); err != nil {
		s.Close()
		return nil, err
	}
	p, err := program.Exec(in)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.PID, err = r.Keeper.Spawn(ctx, keeper.Spawn{Item: keeper.Item{ID: e.ID, Kind: keeper.KindExec}, Program: p, FDs: fds, Timeout: startBound})
	if keeper.Lost(err) { // it may be there, and nobody would wait for it
		err = errors.Join(err, s.Kill())
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// ownGroup makes a group for the command and puts it in the container's place.
func (s *Session) ownGroup(fds map[string]*os.File, name, id string) error {
	parent := fds[name]
	if parent == nil {
		return nil // v1 alone: there is none to be born into
	}
	if err := unix.Mkdirat(int(parent.Fd()), execGroup(id), 0o755); err != nil {
		return fmt.Errorf("cannot make cgroup of command: %w", err)
	}
	s.dir, s.name = parent, execGroup(id)
	fd, err := unix.Openat(int(parent.Fd()), s.name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		delete(fds, name)
		s.Close()
		return fmt.Errorf("cannot open cgroup of command: %w", err)
	}
	fds[name] = os.NewFile(uintptr(fd), name)
	return nil
}

// open makes the streams.
func (s *Session) open(e Exec, fds map[string]*os.File) error {
	if e.Streams.TTY {
		return s.openTerminal(e, fds)
	}
	for _, one := range []struct {
		name  string
		want  bool
		ours  **os.File
		write bool // the command writes
	}{
		{"stdin", e.Streams.Stdin, &s.Stdin, false}, {"stdout", e.Streams.Stdout, &s.Stdout, true}, {"stderr", e.Streams.Stderr, &s.Stderr, true},
	} {
		if !one.want {
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("cannot make %s: %w", one.name, err)
			}
			fds[one.name] = null
			continue
		}
		ours, theirs, err := pipe(one.name, one.write)
		if err != nil {
			return err
		}
		*one.ours, fds[one.name] = ours, theirs
		uid, gid := hostUser(spec.SpecIDs(e.Spec), e.Process.User)
		if err := unix.Fchown(int(theirs.Fd()), uid, gid); err != nil {
			return fmt.Errorf("cannot give %s to user: %w", one.name, err)
		}
	}
	return nil
}

// pipe returns our end, in the poller, and the command's, which blocks.
func pipe(name string, write bool) (ours, theirs *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("cannot make %s: %w", name, os.NewSyscallError("pipe2", err))
	}
	if !write {
		p[0], p[1] = p[1], p[0]
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return nil, nil, fmt.Errorf("cannot make %s: %w", name, err)
	}
	return os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name), nil
}

// killBound is how long a killed command may take to be gone.
const killBound = 10 * time.Second

// Kill ends all that the command started, and waits until it is gone.
func (s *Session) Kill() error {
	if s.dir == nil {
		return s.killFirst()
	}
	fd, err := unix.Openat(int(s.dir.Fd()), s.name+"/cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot kill command: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("1")); err != nil {
		return fmt.Errorf("cannot kill command: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), killBound)
	defer cancel()
	return s.groups.WaitEmpty(ctx, s.path)
}

// killFirst ends the command's first process alone: on v1 it has no group of its own.
func (s *Session) killFirst() error {
	f, err := s.pidfd()
	if err != nil {
		return nil // it has ended
	}
	defer f.Close()
	if err := unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill command: %w", err)
	}
	return nil
}

// pidfdGroup is PIDFD_SIGNAL_PROCESS_GROUP (linux/pidfd.h).
const pidfdGroup = 1 << 2

// HangUp takes the command's streams away and sends SIGHUP: with a terminal the
// kernel does, to its session; else we do, to its process group.
func (s *Session) HangUp() error {
	s.closeStreams()
	if s.TTY != nil {
		return nil
	}
	f, err := s.pidfd()
	if err != nil {
		return nil // it has ended
	}
	defer f.Close()
	if err := s.signalGroup(f, unix.SIGHUP); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot signal the command: %w", err)
	}
	return nil
}

// signalGroup signals the command's process group, whose first process it is. Before
// Linux 6.9 that goes by number; it is still the command's if the command was there
// just before.
func (s *Session) signalGroup(pidfd *os.File, sig unix.Signal) error {
	if !mount.SwitchedOff("signal-group") {
		if err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, pidfdGroup); !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		return err
	}
	return unix.Kill(-s.PID, sig)
}

func (s *Session) closeStreams() {
	for _, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr, s.TTY} {
		if f != nil {
			f.Close()
		}
	}
}

// Close closes our ends. The command's group goes with it, unless something it
// started in the background lives on; then it goes after a later command, or with
// the container.
func (s *Session) Close() error {
	s.closeStreams()
	if s.dir == nil {
		return nil
	}
	defer s.dir.Close()
	err := unix.Unlinkat(int(s.dir.Fd()), s.name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.EBUSY) {
		s.busy()
		return nil
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove cgroup of command: %w", err)
	}
	return nil
}

// openTerminal opens a terminal of the container's own devpts.
func (s *Session) openTerminal(e Exec, fds map[string]*os.File) error {
	master, slave, err := openContainerPTY(fds["container"])
	if err != nil {
		return err
	}
	if s.TTY, err = polled(master); err != nil {
		slave.Close()
		return err
	}
	fds["tty"] = slave
	uid, _ := hostUser(spec.SpecIDs(e.Spec), e.Process.User)
	if err := unix.Fchown(int(slave.Fd()), uid, -1); err != nil {
		return fmt.Errorf("cannot give terminal to user: %w", err)
	}
	return nil
}

// polled puts a file into the poller: a read that waits ends when it is closed.
func polled(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", f.Name(), os.NewSyscallError("dup", err))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot watch %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openContainerPTY opens a new terminal in the devpts instance that the
// container sees. pidfd is its first process.
func openContainerPTY(pidfd *os.File) (master, slave *os.File, err error) {
	pid, err := pidOf(pidfd)
	if err != nil {
		return nil, nil, err
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the container's root: %w", err)
	}
	defer unix.Close(root)
	// Only a process that has not been reaped keeps its pid: the root was its own.
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		return nil, nil, fmt.Errorf("cannot open a terminal: the container has ended: %w", err)
	}
	fd, err := unix.Openat2(root, "dev/pts", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the container's /dev/pts: %w", err)
	}
	devpts := os.NewFile(uintptr(fd), "devpts")
	defer devpts.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, nil, errors.New("cannot open a terminal: the container's /dev/pts is no devpts")
	}
	return mount.OpenPTY(devpts)
}

// pidOf reads a pidfd's pid from its fdinfo (proc_pid_fdinfo(5)).
func pidOf(pidfd *os.File) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, fmt.Errorf("cannot find the container's process: %w", err)
	}
	var pid int
	if i := bytes.Index(b, []byte("\nPid:")); i >= 0 {
		fmt.Sscan(string(b[i+5:]), &pid)
	}
	if pid <= 0 {
		return 0, errors.New("cannot find the container's process: it has ended")
	}
	return pid, nil
}
