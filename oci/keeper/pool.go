package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

// A pool hands programs to spawners. One is enough at any usual rate (a spawn
// takes half a millisecond); another is started when a program waits, since one
// whose child hangs in a dead file system waits with it.
type pool struct {
	free chan *spawner

	mu    sync.Mutex
	alive int
	stuck int // whose child cannot be killed
	// shrinking says that shrink will be called.
	shrinking bool
}

const (
	maxSpawners = 32
	// busyAfter is how long a program waits for a spawner before another starts.
	busyAfter = 20 * time.Millisecond
)

var errNoSpawner = errors.New("every spawner is held by a program that does not return")

// A spawner is the keeper's view of a spawner process.
type spawner struct {
	proc *os.Process
	conn *conn
	page []byte // the report page, shared
	memf int
}

func newPool() (*pool, error) {
	p := &pool{free: make(chan *spawner, maxSpawners)}
	s, err := p.start()
	if err != nil {
		return nil, err
	}
	p.alive++
	p.free <- s
	return p, nil
}

func (p *pool) start() (*spawner, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot start spawner: %w", os.NewSyscallError("socketpair", err))
	}
	theirs := os.NewFile(uintptr(pair[1]), "spawner")
	defer theirs.Close()
	memfd, page, err := sharedPage()
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("cannot start spawner: %w", err)
	}
	defer memfd.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("cannot start spawner: %w", err)
	}
	defer null.Close()
	proc, err := os.StartProcess(ownBinary, []string{"cri-box", RoleSpawner}, &os.ProcAttr{
		Env:   append(ownEnv(), "GOMAXPROCS=1"),
		Files: []*os.File{null, null, os.Stderr, theirs, memfd},
		// One that waits for a child in the kernel does not see that its socket ended.
		// The signal comes when the thread that forked ends: none does before the keeper.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("cannot start spawner: %w", err)
	}
	c, err := newConn(pair[0], reportSize, 4)
	if err != nil {
		proc.Kill()
		proc.Wait()
		unix.Close(pair[0])
		unix.Munmap(page)
		return nil, fmt.Errorf("cannot start spawner: %w", err)
	}
	return &spawner{proc: proc, page: page, conn: c}, nil
}

func sharedPage() (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate("report", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "report")
	if err := f.Truncate(program.PageSize); err != nil {
		f.Close()
		return nil, nil, err
	}
	page, err := unix.Mmap(fd, 0, program.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return f, page, nil
}

// end kills the spawner; it must not be used again.
func (s *spawner) end() {
	s.proc.Kill()
	s.proc.Wait()
	s.conn.close()
	unix.Close(s.conn.fd)
	unix.Munmap(s.page)
}

// take gives a free spawner, starting one if all are busy for a while.
func (p *pool) take(ctx context.Context) (*spawner, error) {
	select {
	case s := <-p.free:
		return s, nil
	default:
	}
	timer := time.NewTimer(busyAfter)
	defer timer.Stop()
	for {
		select {
		case s := <-p.free:
			return s, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot spawn: %w", errNoSpawner)
		case <-timer.C:
			s, err := p.grow()
			if s != nil || err != nil {
				return s, err
			}
		}
	}
}

// grow starts a spawner; nil if there are enough.
func (p *pool) grow() (*spawner, error) {
	p.mu.Lock()
	if p.alive >= maxSpawners {
		p.mu.Unlock()
		return nil, nil
	}
	p.alive++
	p.mu.Unlock()
	s, err := p.start()
	if err != nil {
		p.lost()
	}
	return s, err
}

func (p *pool) lost() {
	p.mu.Lock()
	p.alive--
	p.mu.Unlock()
}

const (
	// keepIdle is how many spawners stay when nobody waits.
	keepIdle = 2
	// shrinkEvery is how often one of the others is ended: starting it again takes
	// longer than what it does, and in a burst all are wanted again at once.
	shrinkEvery = 250 * time.Millisecond
)

func (p *pool) give(s *spawner) {
	select {
	case p.free <- s:
	default: // one that was stuck came back
		p.lost()
		s.end()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) > keepIdle && !p.shrinking {
		p.shrinking = true
		time.AfterFunc(shrinkEvery, p.shrink)
	}
}

// shrink ends an idle spawner, and comes again while there are too many.
func (p *pool) shrink() {
	p.mu.Lock()
	if len(p.free) <= keepIdle {
		p.shrinking = false
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	select {
	case s := <-p.free:
		p.lost()
		s.end()
	default: // wanted meanwhile
	}
	time.AfterFunc(shrinkEvery, p.shrink)
}

// hung tells whether a program's process cannot be killed.
func (p *pool) hung() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck > 0
}

// refill starts a spawner where all were ended. Without one the next program
// starts its own.
func (p *pool) refill() {
	if s, err := p.grow(); err == nil && s != nil {
		p.free <- s
	}
}

// close ends the idle spawners.
func (p *pool) close() {
	for {
		select {
		case s := <-p.free:
			p.lost()
			s.end()
		default:
			return
		}
	}
}

// A spawned is a process made by a spawner. pidfd is the receiver's, -1 if none.
type spawned struct {
	spawnResult
	pidfd    int
	prepared int
}

// run gives a program to a spawner and returns what became of it. fds, the
// program's own first, stay the caller's. When ctx ends first, the result says
// at which call the child stands, and the child is killed. A spawner that dies
// before it has made a process is no matter: another gets the program.
func (p *pool) run(ctx context.Context, size int, fds []int) (spawned, error) {
	for try := 0; ; try++ {
		s, err := p.take(ctx)
		if err != nil {
			return spawned{pidfd: -1}, err
		}
		res, err := p.runOn(ctx, s, size, fds)
		if !errors.Is(err, errNothingMade) || try == maxTries {
			return res, err
		}
	}
}

// maxTries is how many spawners may die of one program before it counts as wrong.
const maxTries = 3

// errNothingMade says that a spawner died before it cloned.
var errNothingMade = errors.New("the spawner died before it made a process")

func (p *pool) runOn(ctx context.Context, s *spawner, size int, fds []int) (spawned, error) {
	// What the page says of the program before is none of this one's: its process
	// may run for long.
	clear(s.page[program.PagePID : program.PageInnerPID+8])
	err := s.order(size, fds)
	if err != nil {
		p.discard(s)
		return spawned{pidfd: -1}, fmt.Errorf("%w: %w", errNothingMade, err)
	}
	res, err := s.answerWithin(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return p.rescue(s), nil
	}
	var refused cloneError
	if err != nil && !errors.As(err, &refused) {
		if pagePID(s.page) == 0 {
			err = fmt.Errorf("%w: %w", errNothingMade, err)
		} else {
			err = fmt.Errorf("%w: %w", ErrSpawnerLost, err)
		}
		p.discard(s)
		return res, err
	}
	p.give(s)
	return res, err
}

// discard drops a spawner that died or talks nonsense; its successor is started
// at once, so that no request waits for it. What it was making ends too.
func (p *pool) discard(s *spawner) {
	inner, outer := pageInner(s.page), pageOuter(s.page)
	for _, pid := range []int{inner, outer} {
		if pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
			go reapPID(pid) // one in the D state stays
		}
	}
	s.end()
	next, err := p.start()
	if err != nil {
		p.lost()
		return
	}
	p.free <- next
}

// rescue ends a child that did not come through its program in time. A spawner
// whose child cannot even be killed (D state) is left to itself.
func (p *pool) rescue(s *spawner) spawned {
	left, pid := pageLeft(s.page), pagePID(s.page)
	if pid > 0 {
		unix.Kill(pid, unix.SIGKILL)
	}
	stuck := spawned{spawnResult: spawnResult{Op: left, Stuck: true, Errno: int(syscall.ETIMEDOUT)}, pidfd: -1}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	res, err := s.answerWithin(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.mu.Lock()
		p.alive, p.stuck = p.alive-1, p.stuck+1
		p.mu.Unlock()
		go p.outlast(s)
		return stuck
	}
	if err != nil {
		p.discard(s)
	} else {
		p.give(s)
	}
	res.kill() // if it was made only now
	stuck.PID, stuck.pidfd, stuck.prepared = res.PID, res.pidfd, res.prepared
	return stuck
}

// kill ends a process that nobody wants, if there is one.
func (s spawned) kill() {
	if s.pidfd >= 0 {
		unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0)
	}
}

// outlast waits for a child that cannot be killed, or for a spawner that was stopped
// and may make its child yet; reaps the child, and takes its spawner back.
func (p *pool) outlast(s *spawner) {
	res, err := s.answer()
	if res.pidfd >= 0 {
		res.kill()
		unix.Close(res.pidfd)
		for _, pid := range []int{res.prepared, res.PID} {
			if pid > 0 {
				reapPID(pid)
			}
		}
	}
	p.mu.Lock()
	p.alive, p.stuck = p.alive+1, p.stuck-1
	p.mu.Unlock()
	if err != nil {
		p.discard(s)
		return
	}
	p.give(s)
}

func pageLeft(page []byte) int { return int(binary.LittleEndian.Uint64(page)) }

// pagePID is the process that executes, pageOuter the one that prepares it or the
// same, pageInner what that cloned; 0 is none.
func pagePID(page []byte) int {
	if inner := pageInner(page); inner > 0 {
		return inner
	}
	return pageOuter(page)
}

func pageInner(page []byte) int { return int(binary.LittleEndian.Uint32(page[program.PageInnerPID:])) }
func pageOuter(page []byte) int { return int(binary.LittleEndian.Uint32(page[program.PagePID:])) }

func (s *spawner) order(size int, fds []int) error {
	var b [orderSize]byte
	order := uint64(size) | uint64(len(fds))<<32
	binary.LittleEndian.PutUint64(b[:], order)
	for first := true; first || len(fds) > 0; first = false {
		n := min(len(fds), fdsPerPart)
		if err := sendmsg(s.conn.fd, b[:], unix.UnixRights(fds[:n]...), forever); err != nil {
			return fmt.Errorf("cannot order program: %w", err)
		}
		fds = fds[n:]
	}
	return nil
}

// answerWithin is answer, or os.ErrDeadlineExceeded when ctx ends before.
func (s *spawner) answerWithin(ctx context.Context) (spawned, error) {
	fired := make(chan struct{})
	late := context.AfterFunc(ctx, func() {
		s.conn.file.SetReadDeadline(time.Now())
		close(fired)
	})
	res, err := s.answer()
	if !late() {
		<-fired
		s.conn.file.SetReadDeadline(time.Time{})
	}
	return res, err
}

func (s *spawner) answer() (spawned, error) {
	n, fds, err := s.conn.part()
	if err != nil || n != reportSize {
		closeAll(fds)
		return spawned{pidfd: -1}, fmt.Errorf("cannot spawn: the spawner ended: %w", err)
	}
	le, b := binary.LittleEndian, s.conn.buf
	res := spawned{pidfd: -1, prepared: int(le.Uint32(b[4:]))}
	res.PID, res.Op, res.Errno = int(le.Uint32(b[0:])), int(le.Uint32(b[8:])), int(le.Uint32(b[12:]))
	if len(fds) > 0 {
		res.pidfd = fds[0]
	}
	if errno := syscall.Errno(le.Uint32(b[16:])); errno != 0 {
		return res, cloneError{errno}
	}
	return res, nil
}

// cloneError is clone3's own failure: the spawner is well, no process was made.
type cloneError struct{ errno syscall.Errno }

func (e cloneError) Error() string { return "cannot clone: " + e.errno.Error() }
func (e cloneError) Unwrap() error { return e.errno }
