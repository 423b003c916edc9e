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

	mu    sync.Mutex
	items map[string]*held
	peer  int // the daemon's socket, -1 while it is away
	// session counts daemons: a socket's number may be the next one's too.
	session int

	sendMu sync.Mutex // a message's parts stay together
}

// held is one item with its descriptors, which are the keeper's.
type held struct {
	Item
	fds    map[string]int
	logger *logger
}

// Run is the role of the keeper process. listener is a listening SOCK_SEQPACKET
// socket. It returns when a daemon has told it to end.
func Run(listener int) error {
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
	k := &keeper{pool: p, items: map[string]*held{}, peer: -1}
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot accept: %w", os.NewSyscallError("accept4", err))
		}
		if !sameUser(fd) {
			unix.Close(fd)
			continue
		}
		if k.talk(fd) {
			return nil
		}
	}
}

// sameUser tells whether the peer runs as the user that we run as.
func sameUser(fd int) bool {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err == nil && int(cred.Uid) == os.Geteuid()
}

// talk serves one daemon until it goes away; true means that the keeper shall end.
func (k *keeper) talk(fd int) (end bool) {
	k.mu.Lock()
	k.peer = fd
	k.session++
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
	c := newConn(fd)
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
			go k.spawn(fd, session, m, fds)
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
		k.reply(fd, m, &message{Version: Version, PID: os.Getpid()}, nil)
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
	here := k.peer == fd
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
	res, err := k.runProgram(m, fds[:1+m.Donated])
	closeAll(fds[:1+m.Donated])
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
			k.reapLater(res)
		}
		reply := &message{Result: &res.spawnResult}
		if err != nil {
			reply.Err = err.Error()
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
	k.reapLater(res)
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

func (k *keeper) runProgram(m *message, fds []int) (spawned, error) {
	timeout := time.Duration(m.Timeout) * time.Millisecond
	if timeout <= 0 {
		timeout = spawnBound
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var st unix.Stat_t
	if err := unix.Fstat(fds[0], &st); err != nil {
		return spawned{pidfd: -1}, fmt.Errorf("cannot stat program: %w", err)
	}
	return k.pool.run(ctx, int(st.Size), fds)
}

// reapLater reaps a child that nobody asks for: it failed, or it is an opener.
func (k *keeper) reapLater(res spawned) {
	w, err := newWaiter(res.pidfd, res.PID)
	if err != nil {
		return
	}
	go func() {
		w.wait()
		w.f.Close()
	}()
}

// keep takes over an item and its descriptors, and starts to watch and log it.
func (k *keeper) keep(item Item, fds []int) error { return k.keepFor(0, item, fds) }

// keepFor does so as long as the session lasts; 0 stands for any.
func (k *keeper) keepFor(session int, item Item, fds []int) error {
	h := &held{Item: item, fds: map[string]int{}}
	for i, name := range item.Names {
		if name == FDStdout || name == FDStderr || name == FDTTY || name == FDStdin {
			unix.SetNonblock(fds[i], true)
		}
		h.fds[name] = fds[i]
	}
	k.mu.Lock()
	if session != 0 && session != k.session {
		k.mu.Unlock()
		h.close()
		return errForsaken
	}
	if old := k.items[item.ID]; old != nil {
		k.mu.Unlock()
		h.close()
		return fmt.Errorf("cannot keep %s: it is kept already", item.ID)
	}
	k.items[item.ID] = h
	k.mu.Unlock()
	if pidfd, ok := h.fds[FDPid]; ok && item.Exit == nil {
		return k.watch(h, pidfd)
	}
	return nil
}

// watch starts the logs and waits for the end in the background.
func (k *keeper) watch(h *held, pidfd int) error {
	pidfd, err := dup(pidfd)
	if err != nil {
		return err
	}
	w, err := newWaiter(pidfd, h.PID)
	if err != nil {
		return err
	}
	if err := h.startLogs(func(why error) { go k.tellUnwritable(h.ID, why) }); err != nil {
		w.f.Close()
		return err
	}
	go k.await(h, w)
	return nil
}

func dup(fd int) (int, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return fd, os.NewSyscallError("dup", err)
}

// own duplicates a kept descriptor for the logger; nil if it is not kept.
func (h *held) own(name string) (*os.File, error) {
	kept, ok := h.fds[name]
	if !ok {
		return nil, nil
	}
	fd, err := dup(kept)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// startLogs starts a pump for each stream, on descriptors of its own.
func (h *held) startLogs(tell func(error)) error {
	if h.Log == nil {
		return nil
	}
	file, err := h.own(FDLog)
	if err != nil {
		return err
	}
	stashes, err := h.openStashes(file)
	if err != nil {
		return err
	}
	h.logger = newLogger(h.Log, file)
	h.logger.tell = tell
	for _, stream := range []string{FDStdout, FDStderr, FDTTY} {
		own, err := h.own(stream) // non-blocking already: in the poller
		if err != nil {
			return err
		}
		if own == nil {
			continue
		}
		h.logger.pumps.Add(1)
		if stream == FDTTY {
			go h.logger.pumpTTY(own)
		} else {
			go h.logger.pumpPipe(stream, own, stashes[stream])
		}
	}
	return nil
}

// openStashes gives the stash of each stream, after what an earlier keeper was
// writing has been settled. One that cannot be used is left out: the container's
// output matters more.
func (h *held) openStashes(log *os.File) (map[string]*stash, error) {
	stashes := map[string]*stash{}
	for stream, name := range map[string]string{FDStdout: FDStashOut, FDStderr: FDStashErr} {
		f, err := h.own(name)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		s, err := openStash(f)
		if err == nil {
			err = s.settle(log)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "keeper: %s of %s: %v\n", name, h.ID, err)
			f.Close()
			continue
		}
		stashes[stream] = s
	}
	return stashes, nil
}

// drainBound is how long the report of an exit waits for the rest of the output:
// a background child may keep the pipe open for ever.
const drainBound = 2 * time.Second

// await waits for the process, then for its last output, and reports.
func (k *keeper) await(h *held, w *waiter) {
	exit, err := w.wait()
	w.f.Close()
	if err != nil {
		return
	}
	if h.logger != nil {
		drained := make(chan struct{})
		go func() { h.logger.pumps.Wait(); close(drained) }()
		select {
		case <-drained:
		case <-time.After(drainBound):
		}
	}
	k.mu.Lock()
	h.Exit = &exit
	item, peer := h.Item, k.peer
	if h.Kind == KindExec {
		delete(k.items, h.ID)
	}
	k.mu.Unlock()
	if h.Kind == KindExec {
		h.close()
	}
	item.Names = nil
	k.send(peer, &message{Verb: verbExit, Item: &item}, nil)
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
