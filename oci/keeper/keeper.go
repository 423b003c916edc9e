package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper is the state of the keeper process.
type keeper struct {
	pool *pool

	mu     sync.Mutex
	items  map[string]*held
	peer   int               // the daemon's socket, -1 while it is away
	slices map[uint64]uint64 // see kills.go
	// session counts daemons: a socket's number may be the next one's too.
	session int
	// strays are children that nobody asks for, until they are reaped.
	strays map[*waiter]bool

	sendMu sync.Mutex     // a message's parts stay together
	spawns sync.WaitGroup // under way
	// ends is held for reading from reaping a process to noting how it ended, and
	// from noting to telling it: an upgrade falls between neither.
	ends sync.RWMutex
}

// held is one item with its descriptors, which are the keeper's.
type held struct {
	Item
	fds    map[string]int
	logger *logger
	// seen is how it ended, once that is known and while its last output is
	// waited for.
	seen *Exit
	// kills is its count, once it was read at its end, and slice where it counts.
	kills *uint64
	slice uint64
}

// Run is the role of the keeper process. listener is a listening SOCK_SEQPACKET
// socket; state is what the keeper's earlier binary handed over (upgrade.go), nil
// for a new keeper. It returns when a daemon has told it to end.
func Run(listener int, state *handover) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become undumpable: %w", err)
	}
	// Once more, in our own name: by it a daemon finds who does not answer.
	if err := unix.Listen(listener, backlog); err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	p, err := newPool()
	if err != nil {
		return err
	}
	defer p.close()
	k := &keeper{pool: p, items: map[string]*held{}, strays: map[*waiter]bool{}, slices: map[uint64]uint64{}, peer: -1}
	if state != nil && k.resume(state) {
		return nil
	}
	return k.serve(listener)
}

// serve talks to one daemon after the other.
func (k *keeper) serve(listener int) error {
	for {
		fd, err := accept(listener)
		if err != nil {
			return fmt.Errorf("cannot accept: %w", err)
		}
		if !sameUser(fd) {
			unix.Close(fd)
			continue
		}
		k.begin(fd)
		if k.talk(fd) {
			return nil
		}
	}
}

// acceptAgain is how long the keeper waits for what it is out of.
const acceptAgain = 100 * time.Millisecond

// accept waits for a daemon, also where there is no descriptor or memory for it yet
// (accept4 takes the descriptor before it waits): the keeper must not end of that.
func accept(listener int) (int, error) {
	for told := false; ; {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		default:
			return -1, os.NewSyscallError("accept4", err)
		}
		if !told {
			fmt.Fprintf(os.Stderr, "keeper: cannot accept, will try again: %v\n", err)
		}
		told = true
		<-time.After(acceptAgain)
	}
}

// sameUser tells whether the peer runs as the user that we run as.
func sameUser(fd int) bool {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err == nil && int(cred.Uid) == os.Geteuid()
}

// begin makes fd the daemon's socket.
func (k *keeper) begin(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.peer = fd
	k.session++
}

// talk serves the daemon at fd until it goes away; true means that the keeper
// shall end.
func (k *keeper) talk(fd int) (end bool) {
	k.mu.Lock()
	session := k.session
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.peer, k.session = -1, k.session+1
		k.mu.Unlock()
		k.sendMu.Lock() // nobody is sending on it any more
		unix.Close(fd)
		k.sendMu.Unlock()
	}()
	c, err := newConn(fd, maxMessage, maxRights)
	if err != nil { // a daemon that is turned away would start another keeper
		fmt.Fprintf(os.Stderr, "keeper: a thread waits for requests: %v\n", err)
		c = &conn{fd: fd, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4*maxRights))}
	}
	defer c.close()
	for {
		m, fds, err := c.receive()
		if err != nil {
			return false
		}
		if m.Verb == verbStop && k.empty() {
			k.reply(fd, m, &message{}, nil)
			return true
		}
		if m.Verb == verbSpawn { // on its own, since it takes time
			k.spawns.Go(func() { k.spawn(fd, session, m, fds) })
			continue
		}
		k.handle(fd, m, fds)
	}
}

func (k *keeper) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.items) == 0
}

// handle answers one request that takes no time.
func (k *keeper) handle(fd int, m *message, fds []int) {
	switch m.Verb {
	case verbHello:
		k.reply(fd, m, k.hello(), nil)
	case verbAdopt:
		k.reply(fd, m, k.adopt(m, fds), nil)
	case verbRelease:
		k.release(m.Item.ID)
		k.reply(fd, m, &message{}, nil)
	case verbRelog:
		k.reply(fd, m, k.relog(m, fds), nil)
	case verbTap:
		k.reply(fd, m, k.tap(m, fds), nil)
	case verbClose:
		k.closeNames(m.Item.ID, m.Names)
		k.reply(fd, m, &message{}, nil)
	case verbList:
		k.list(fd, m)
	case verbUpgrade:
		k.reply(fd, m, fail(k.upgrade(m, fds)), nil) // one that succeeds does not return
	case verbStop:
		k.reply(fd, m, &message{Err: "cannot stop the keeper: it keeps pods or containers"}, nil)
	default:
		closeAll(fds)
		k.reply(fd, m, &message{Err: fmt.Sprintf("this keeper (protocol %d) does not know %q", Version, m.Verb)}, nil)
	}
}

func (k *keeper) reply(fd int, req, m *message, fds []int) {
	m.Seq = req.Seq
	k.send(fd, m, fds)
}

// send drops the message when the daemon is away: it lists everything when it
// is back.
func (k *keeper) send(fd int, m *message, fds []int) {
	k.sendMu.Lock()
	defer k.sendMu.Unlock()
	k.mu.Lock()
	here := fd >= 0 && k.peer == fd
	k.mu.Unlock()
	if !here {
		return
	}
	if err := send(fd, m, fds); err != nil && !errors.Is(err, unix.EPIPE) {
		fmt.Fprintf(os.Stderr, "keeper: %v\n", err)
	}
}

func fail(err error) *message { return &message{Err: err.Error()} }

// spawn runs a program and keeps its process. If the daemon that asked has gone
// meanwhile, the process ends: the next one has been told what there is.
func (k *keeper) spawn(fd, session int, m *message, fds []int) {
	if len(fds) < 1+m.Donated || m.Item == nil || len(fds)-1-m.Donated != len(m.Item.Names) {
		closeAll(fds)
		k.reply(fd, m, &message{Err: "cannot spawn: descriptors are missing"}, nil)
		return
	}
	kept := fds[1+m.Donated:]
	defer closeAll(fds[:1+m.Donated]) // after the answer, for whom somebody waits
	res, err := k.runProgram(m, fds[:1+m.Donated])
	if res.prepared > 0 {
		reapPID(res.prepared)
		if err == nil && res.Errno == 0 && !k.newChild(res) {
			err = errForged
		}
	}
	if k.gone(session) && res.pidfd >= 0 && !m.Detached {
		k.forsake(res, kept)
		return
	}
	if err != nil || res.Errno != 0 || m.Detached || res.pidfd < 0 {
		closeAll(kept)
		if res.pidfd >= 0 {
			k.reapLater(res, 2*m.bound()) // a detached one: longer than its answers are waited for
		}
		reply := &message{Result: &res.spawnResult}
		if err != nil {
			reply.Err, reply.Lost = err.Error(), errors.Is(err, ErrSpawnerLost)
		}
		k.reply(fd, m, reply, nil)
		return
	}
	item := *m.Item
	item.PID = res.PID
	item.Names = append(slices.Clone(item.Names), FDPid)
	mine, err := dup(res.pidfd)
	if err == nil {
		err = k.keepFor(session, item, append(slices.Clone(kept), mine))
	}
	if errors.Is(err, errForsaken) {
		k.forsake(res, nil)
		return
	}
	reply := &message{Result: &res.spawnResult}
	if err != nil {
		reply.Err = err.Error()
	}
	k.reply(fd, m, reply, []int{res.pidfd})
	unix.Close(res.pidfd)
}

var errForsaken = errors.New("the daemon that asked is gone")

func (k *keeper) gone(session int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.session != session
}

// forsake ends a process that nobody asks for any more.
func (k *keeper) forsake(res spawned, kept []int) {
	closeAll(kept)
	if err := unix.PidfdSendSignal(res.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		fmt.Fprintf(os.Stderr, "keeper: cannot end process %d, whose daemon is gone: %v\n", res.PID, err)
	}
	k.reapLater(res, spawnBound)
}

var errForged = errors.New("the process that was reported is not the one that was made")

// newChild tells whether a process is a child of ours that we do not have yet.
// The pid of an inner clone comes from memory that the clone can write until it
// executes, and so can who traces it.
func (k *keeper) newChild(res spawned) bool {
	_, _, errno := syscall.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, uintptr(res.pidfd), 0, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if errno != 0 {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.items {
		if h.PID == res.PID && h.Exit == nil {
			return false
		}
	}
	return true
}

// spawnBound is how long a program may take that was given no time.
const spawnBound = 30 * time.Second

// bound is how long a spawn's program may take.
func (m *message) bound() time.Duration {
	if m.Timeout <= 0 {
		return spawnBound
	}
	return time.Duration(m.Timeout) * time.Millisecond
}

func (k *keeper) runProgram(m *message, fds []int) (spawned, error) {
	ctx, cancel := context.WithTimeout(context.Background(), m.bound())
	defer cancel()
	var st unix.Stat_t
	if err := unix.Fstat(fds[0], &st); err != nil {
		return spawned{pidfd: -1}, fmt.Errorf("cannot stat program: %w", err)
	}
	return k.pool.run(ctx, int(st.Size), fds)
}

// reapLater reaps a child that nobody asks for: it failed, or it is an opener. One
// that hangs is killed after bound: a dead volume is tried again and again.
func (k *keeper) reapLater(res spawned, bound time.Duration) {
	w, err := newWaiter(res.pidfd, res.PID)
	if err != nil {
		return
	}
	k.stray(w, func() {
		late := time.AfterFunc(bound, w.kill)
		w.wait()
		late.Stop()
		if w.traced {
			w.rest()
		}
	})
}

// stray has reap wait for a child that nobody asks for any more, and keeps it until
// then for an upgrade.
func (k *keeper) stray(w *waiter, reap func()) {
	k.mu.Lock()
	k.strays[w] = true
	k.mu.Unlock()
	go func() {
		reap()
		// An upgrade that has this one in its list finds its descriptor open.
		k.ends.RLock()
		defer k.ends.RUnlock()
		k.mu.Lock()
		delete(k.strays, w)
		k.mu.Unlock()
		w.f.Close()
	}()
}

const backlog = 4

// Listen makes the keeper's socket at path, replacing what is there.
func Listen(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		unix.Close(fd)
		return -1, err
	}
	old := unix.Umask(0o177) // sockets 0600
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return fd, nil
}
