package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

// A Spawn is the order to make a process.
type Spawn struct {
	// Item is what to keep; its PID, Names and Exit are filled in.
	Item Item
	// Program is what the process does; FDs what it uses, by name. They become the
	// client's, which closes them once the keeper has them.
	Program *program.Program
	FDs     map[string]*os.File
	// Keep is what the keeper takes into custody; it becomes the client's.
	Keep map[string]*os.File
	// Timeout bounds the program, from clone to execve; 0 is 30 s.
	Timeout time.Duration
}

// A CallError is the system call of a program at which it failed.
type CallError struct {
	Program string
	Why     string
	Errno   syscall.Errno
	Stuck   bool
	// Execve says that it was execve(2): all before it went well.
	Execve bool
}

func (e *CallError) Error() string {
	if e.Stuck {
		return fmt.Sprintf("cannot start %s: cannot %s: the call does not return", e.Program, e.Why)
	}
	return fmt.Sprintf("cannot start %s: cannot %s: %v", e.Program, e.Why, e.Errno)
}

func (e *CallError) Unwrap() error { return e.Errno }

// Spawn makes a process and returns its pid. It is kept, and its end reported to
// OnExit, unless the error is not nil. It is not given up with ctx, or the keeper
// would have a process that nobody knows of; Timeout bounds it.
func (c *Client) Spawn(ctx context.Context, s Spawn) (int, error) {
	ctx = context.WithoutCancel(ctx)
	closeFDs := sync.OnceFunc(func() { // while the keeper works, for that takes a while too
		for _, f := range s.FDs {
			f.Close()
		}
	})
	defer closeFDs()
	item := s.Item
	keep := make([]int, 0, len(s.Keep))
	for name, f := range s.Keep {
		item.Names = append(item.Names, name)
		keep = append(keep, int(f.Fd()))
	}
	// The daemon's custody begins before the process does, so that an exit finds it.
	kept := &Kept{Item: s.Item, FDs: s.Keep}
	if kept.FDs == nil {
		kept.FDs = map[string]*os.File{}
	}
	c.mu.Lock()
	if c.items[item.ID] != nil {
		c.mu.Unlock()
		kept.close()
		return 0, fmt.Errorf("cannot start %s: it is kept already", item.ID)
	}
	c.items[item.ID] = kept
	c.mu.Unlock()
	pid, pidfd, err := c.spawn(ctx, &message{Verb: verbSpawn, Item: &item, sent: closeFDs}, s, keep)
	if errors.Is(err, ErrKeeperLost) {
		// It may live, and keep what it made: we could not take its answer. An error is
		// that of a keeper that is not up yet, which keeps nothing.
		c.ask(ctx, &message{Verb: verbRelease, Item: &Item{ID: item.ID}}, nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.items, item.ID)
		kept.close()
		return 0, err
	}
	kept.PID = pid
	if c.items[item.ID] == kept {
		kept.FDs[FDPid] = pidfd
		c.store(kept)
	} else {
		pidfd.Close() // an exec that ended already
	}
	return pid, nil
}

func (c *Client) spawn(ctx context.Context, m *message, s Spawn, keep []int) (int, *os.File, error) {
	flat, err := seal(s.Program)
	if err != nil {
		return 0, nil, err
	}
	defer flat.Close()
	fds := []int{int(flat.Fd())}
	for _, name := range s.Program.FDs() {
		f := s.FDs[name]
		if f == nil {
			return 0, nil, fmt.Errorf("cannot start %s: its program uses a descriptor %q that nobody gave", s.Program.Name, name)
		}
		fds = append(fds, int(f.Fd()))
	}
	m.Donated, m.Detached, m.Timeout = len(fds)-1, s.Program.Detached, int(s.Timeout/time.Millisecond)
	reply, got, err := c.ask(ctx, m, append(fds, keep...))
	if err == nil && reply.Result != nil && reply.Result.Errno != 0 {
		closeAll(got)
		return 0, nil, callError(s.Program, reply.Result)
	}
	if err != nil {
		closeAll(got)
		return 0, nil, fmt.Errorf("cannot start %s: %w", s.Program.Name, err)
	}
	if s.Program.Detached {
		return 0, nil, nil
	}
	if len(got) != 1 {
		closeAll(got)
		return 0, nil, fmt.Errorf("cannot start %s: the keeper gave no pidfd", s.Program.Name)
	}
	return reply.Result.PID, os.NewFile(uintptr(got[0]), FDPid), nil
}

func callError(p *program.Program, r *spawnResult) error {
	op := r.Op
	if r.Stuck {
		op = len(p.Ops) - r.Op
	}
	// An inner clone tells only the spawner where it stands: what takes long there
	// is execve, the last call.
	if r.Stuck && op >= 0 && op < len(p.Ops) && p.Ops[op].Leave {
		op = len(p.Ops) - 1
	}
	e := &CallError{Program: p.Name, Why: "finish its program", Errno: syscall.Errno(r.Errno), Stuck: r.Stuck}
	if op >= 0 && op < len(p.Ops) {
		e.Why, e.Execve = p.Ops[op].Why, p.Ops[op].Nr == unix.SYS_EXECVE
	}
	return e
}

// seal puts a program into a memfd that nobody can change any more.
func seal(p *program.Program) (*os.File, error) {
	flat, err := p.Encode()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", p.Name, os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "program")
	if _, err := f.Write(flat); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal %s: %w", p.Name, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal %s: %w", p.Name, err)
	}
	return f, nil
}

// Run makes a process that nobody keeps and that reports by its own means: an
// opener (a detached program).
func (c *Client) Run(ctx context.Context, p *program.Program, fds map[string]*os.File) error {
	_, _, err := c.spawn(ctx, &message{Verb: verbSpawn, Item: &Item{}}, Spawn{Program: p, FDs: fds}, nil)
	return err
}
