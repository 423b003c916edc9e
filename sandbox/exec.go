package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/spec"
	"golang.org/x/sys/unix"
)

// MaxOutput is how much of an ExecSync's outputs is returned, in bytes; the rest is
// read and dropped. The CRI says 16 MB (ExecSyncResponse), and clients take messages
// of 16 MiB at most, with both outputs in them: one that is larger would be an error
// of the command to them.
const MaxOutput = 16_000_000

// ExecResult is how a command in a container went.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int
}

// ErrTimeout: the command ran longer than it may. All it started is dead.
var ErrTimeout = fmt.Errorf("command timed out: %w", context.DeadlineExceeded)

// ExecSync runs a command in a running container and waits for its end, at most
// timeout; 0 is no limit. A background child that keeps an output open does not
// hold up the answer.
func (m *Manager) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (ExecResult, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, ErrTimeout)
		defer cancel()
	}
	s, ended, err := m.Exec(ctx, id, cmd, oci.Streams{Stdout: true, Stderr: true})
	var call *keeper.CallError
	if errors.As(err, &call) && call.Execve {
		return ExecResult{Stderr: []byte(call.Error() + "\n"), Code: cannotRun(call)}, nil
	}
	if err != nil {
		return ExecResult{}, err
	}
	defer s.Close()
	stdout, stderr := collect(s.Stdout), collect(s.Stderr)
	select {
	case exit := <-ended:
		out, errs := share(stdout.all(), stderr.all())
		return ExecResult{Stdout: out, Stderr: errs, Code: exit.Code}, nil
	case <-ctx.Done():
		if err := s.Kill(); err != nil {
			logger(id).Warn("cannot kill a command that timed out", "err", err)
		}
		return ExecResult{}, fmt.Errorf("cannot exec in container %s: %w", id, context.Cause(ctx))
	}
}

// share keeps MaxOutput of both together: of each at least half, if there is so much.
func share(a, b []byte) ([]byte, []byte) {
	forA := max(MaxOutput-len(b), MaxOutput/2)
	forB := max(MaxOutput-len(a), MaxOutput/2)
	return a[:min(len(a), forA)], b[:min(len(b), forB)]
}

// cannotRun is a shell's exit code for what is not found (127) or not executable.
func cannotRun(call *keeper.CallError) int {
	if call.Errno == unix.ENOENT || call.Errno == unix.ENOTDIR {
		return 127
	}
	return 126
}

// Exec starts a command in a running container. The session is the caller's; its
// end comes once on the channel.
func (m *Manager) Exec(ctx context.Context, id string, cmd []string, streams oci.Streams) (*oci.Session, <-chan keeper.Exit, error) {
	if len(cmd) == 0 {
		return nil, nil, fmt.Errorf("cmd is empty; the command to run is missing: %w", spec.ErrInvalid)
	}
	c, err := m.Executable(id)
	if err != nil {
		return nil, nil, err
	}
	base, err := m.Spec(c.ID)
	if err != nil {
		return nil, nil, err
	}
	// A start that is under way is waited for, so that somebody owns the process;
	// the runtime bounds it.
	ctx = context.WithoutCancel(ctx)
	execID := newID()
	ended := m.exits.expect(execID)
	s, err := m.cfg.Runtime.Exec(ctx, oci.Exec{ID: execID, ContainerID: c.ID, Cgroup: m.cgroupOf(c),
		Process: spec.Exec(base, cmd, streams.TTY), Spec: base, Streams: streams})
	if err != nil {
		m.exits.unexpect(execID)
		return nil, nil, m.cannotExec(c, err)
	}
	return s, ended, nil
}

// cannotExec says why where the call that failed does not: in the PID namespace of
// what has just ended there is "no memory" (pid_namespaces(7)).
func (m *Manager) cannotExec(c *Container, err error) error {
	switch {
	case m.hasEnded(c):
		return fmt.Errorf("cannot exec in container %s: it has ended: %w", c.ID, ErrState)
	case errors.Is(err, keeper.ErrSpawnerLost):
		return m.withoutMemory(c, err)
	}
	return err
}

// hasEnded asks the kernel: the news of the end may be on its way. A process lets go of
// its namespaces before it waits for the end of others in them (do_exit in
// kernel/exit.c).
func (m *Manager) hasEnded(c *Container) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.PID))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return true
	}
	_, err = m.Executable(c.ID)
	return err != nil
}

// withoutMemory names the limit when the kernel killed what was to be a command for
// want of memory, and the spawner with it (starved).
func (m *Manager) withoutMemory(c *Container, err error) error {
	st, failed := m.cfg.Cgroups.Stats(c.ID, m.cgroupOf(c))
	m.forgetGone(c.ID)
	if m := st.Memory; failed != nil || m.Limit == 0 || m.WorkingSet+leastMemory <= m.Limit {
		return err
	}
	return fmt.Errorf("cannot exec in container %s: of its memory limit of %d bytes %d are in use, and no process begins with less than %d: %w",
		c.ID, st.Memory.Limit, st.Memory.WorkingSet, leastMemory, ErrUnavailable)
}

func (x *exits) expect(id string) <-chan keeper.Exit {
	ch := make(chan keeper.Exit, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.execs[id] = ch
	return ch
}

func (x *exits) unexpect(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.execs, id)
}

func (m *Manager) execExited(i keeper.Item) {
	m.exits.mu.Lock()
	ch := m.exits.execs[i.ID]
	delete(m.exits.execs, i.ID)
	m.exits.mu.Unlock()
	if ch != nil {
		ch <- *i.Exit
	}
}

// A collector keeps the begin of one output, up to MaxOutput.
type collector struct {
	*follower
	buf []byte
}

func collect(f *os.File) *collector {
	c := &collector{}
	c.follower = follow(f, c.keep)
	return c
}

func (c *collector) keep(b []byte) {
	c.buf = append(c.buf, b[:min(len(b), MaxOutput-len(c.buf))]...)
}

// all returns what has been written so far.
func (c *collector) all() []byte {
	c.finish(context.Background())
	return c.buf
}
