package program

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args of clone3(2), Linux 5.7.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// clone makes the child, which walks ops and never returns here (walk_*.s).
//
//go:noescape
func clone(args *cloneArgs, ops *byte, n uintptr, page, inner *byte) (r uintptr)

// A Spawner makes processes, one at a time: so that no half-made process can
// ever see another's arguments, environment or descriptors. It belongs to the
// small process that does nothing else (oci/keeper, role spawner).
type Spawner struct {
	page  []byte // the report page, shared with the keeper
	blind []byte // the report page of detached programs: nobody reads it
	args  *cloneArgs
	pid   *int32 // the pidfd's number, written by clone3
}

// NewSpawner returns a spawner that reports into page: PageSize bytes, shared
// (MAP_SHARED), page aligned, owned by the caller and outliving the spawner.
func NewSpawner(page []byte) *Spawner {
	return &Spawner{page: page, blind: make([]byte, PageSize), args: new(cloneArgs), pid: new(int32)}
}

// A Result is how a spawn ended.
type Result struct {
	// PID is the process, a child of the spawner's parent; 0 if none was made.
	PID int
	// PidFD refers to PID; owned by the receiver. -1 if there is none.
	PidFD int
	// Prepared is the process that prepared PID from outside its pid namespace,
	// a child of the spawner's parent too and about to exit; 0 if there was none.
	Prepared int
	// Op is the index of the call that failed, Errno its error (0: none failed).
	Op    int
	Errno syscall.Errno
}

// Spawn makes the process that flat, a program in a private writable mapping,
// describes. fds are the donated descriptors, all above 2, and stay the
// caller's. It returns when the process has executed its program or has ended,
// or, if the program is detached, at once.
//
// An error means that no process was made. A failed call is a Result with an
// errno, and its process has ended.
func (s *Spawner) Spawn(flat []byte, fds []int) (Result, error) {
	page := s.page
	if len(flat) > headerSize && flat[36]&flagDetached != 0 {
		page = s.blind
	}
	clear(page[:pageRegs+8*Regs])
	l, err := load(flat, addr(flat), addr(page), fds)
	if err != nil {
		return Result{PidFD: -1}, err
	}
	binary.LittleEndian.PutUint64(page[pageLeft:], uint64(len(l.ops)/opSize))
	*s.args = cloneArgs{
		flags:      l.clone | unix.CLONE_PARENT | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PARENT_SETTID,
		pidfd:      uint64(uintptr(unsafe.Pointer(s.pid))),
		parentTID:  uint64(addr(page) + PagePID),
		exitSignal: 0, // the parent's is taken (CLONE_PARENT)
	}
	if l.flags&flagFork == 0 || l.flags&flagInner != 0 {
		s.args.flags |= unix.CLONE_VM
	}
	if l.flags&flagDetached == 0 {
		s.args.flags |= unix.CLONE_VFORK
	}
	if s.args.flags&(unix.CLONE_VM|unix.CLONE_VFORK) == unix.CLONE_VFORK {
		unix.Madvise(page, unix.MADV_DOFORK) // a program before may have hidden it from its inner clone
	}
	if l.cgroup >= 0 {
		s.args.flags |= unix.CLONE_INTO_CGROUP
		s.args.cgroup = uint64(l.cgroup)
	}
	inner, err := innerPage(l)
	if err != nil {
		return Result{PidFD: -1}, err
	}
	defer unix.Munmap(inner)
	pid, errno := s.clone(l, page, inner)
	if errno != 0 {
		return Result{PidFD: -1}, fmt.Errorf("cannot clone: %w", errno)
	}
	return s.result(l, pid, page, inner), nil
}

// innerPage is the report page of an inner clone: who has CAP_SYS_PTRACE beside
// it can write there, and keep it. So it is another for each, and tells nothing
// but which call failed.
func innerPage(l loaded) ([]byte, error) {
	if l.flags&flagFork == 0 {
		return nil, nil
	}
	page, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot map an inner clone's page: %w", err)
	}
	return page, nil
}

// clone blocks all signals around clone3, as a handler must not run in a child
// that shares this memory; the list's first call unblocks them for the child.
func (s *Spawner) clone(l loaded, page, inner []byte) (int, syscall.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all, old := ^uint64(0), uint64(0)
	sigmask(&all, &old)
	r := clone(s.args, &l.ops[0], uintptr(len(l.ops)/opSize), &page[0], unsafe.SliceData(inner))
	sigmask(&old, nil)
	if r > ^uintptr(4095) {
		return 0, syscall.Errno(-r)
	}
	return int(r), 0
}

func sigmask(set, old *uint64) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// result reads the report pages, which are final: the walk is over.
func (s *Spawner) result(l loaded, pid int, page, innerPage []byte) Result {
	res := Result{PID: pid, PidFD: int(*s.pid)}
	if l.flags&flagDetached != 0 {
		return res
	}
	le := binary.LittleEndian
	res.Op, res.Errno = Report(page, len(l.ops)/opSize)
	inner := int(le.Uint32(page[PageInnerPID:]))
	if inner == 0 {
		return res
	}
	res.Prepared, res.PID = pid, inner
	unix.Close(res.PidFD)
	// The inner child is nobody's to reap but the keeper's, which does not know it
	// yet: its pid cannot have been reused.
	fd, err := unix.PidfdOpen(inner, 0)
	if err != nil {
		fd = -1
	}
	res.PidFD = fd
	if res.Op, res.Errno = Report(innerPage, len(l.ops)/opSize); res.Errno != 0 {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // whatever it says, it has ended
	}
	return res
}

// Report reads the report page of a program of n calls: the index of the call
// under way (n: it walked to the end) and the errno it failed with (0: it did
// not fail).
func Report(page []byte, n int) (op int, errno syscall.Errno) {
	le := binary.LittleEndian
	return n - int(le.Uint64(page[pageLeft:])), syscall.Errno(le.Uint64(page[pageErrno:]))
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
