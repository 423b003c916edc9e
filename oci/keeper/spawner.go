package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

// Descriptors that a spawner starts with.
const (
	spawnerSocket = 3
	spawnerPage   = 4
)

// An order is what the keeper sends to a spawner: the size of the program, whose
// descriptor comes first, then the donated ones. A report is the answer; the
// pidfd rides along.
const (
	orderSize  = 8
	reportSize = 24 // u32 pid, prepared, op, errno, cloneErrno, forked
)

// RunSpawner is the role of the process that forks. It does one program at a
// time and holds nothing else, so that no half-made process can see a secret of
// another. It ends with its keeper.
func RunSpawner() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become undumpable: %w", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(20)
	}
	if err := defaultSignals(); err != nil {
		return err
	}
	page, err := unix.Mmap(spawnerPage, 0, program.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("cannot map report page: %w", err)
	}
	unix.Close(spawnerPage)
	// No process that it makes keeps the socket open: its end is how the keeper
	// learns of ours.
	unix.CloseOnExec(spawnerSocket)
	s := spawnerProcess{spawner: program.NewSpawner(page),
		conn: &conn{fd: spawnerSocket, buf: make([]byte, orderSize), oob: make([]byte, unix.CmsgSpace(4*253))}}
	for {
		if err := s.serve(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// defaultSignals undoes what was ignored when the daemon was started (nohup
// ignores SIGHUP): execve(2) keeps ignored signals ignored, and no container
// shall inherit that.
func defaultSignals() error {
	// struct sigaction: handler, flags, restorer, mask; 0 is SIG_DFL.
	var old, dfl [4]uint64
	for sig := 1; sig <= 64; sig++ {
		if err := sigaction(sig, nil, &old); err != nil || old[0] != 1 {
			continue // SIGKILL and SIGSTOP refuse; what is not ignored stays
		}
		if err := sigaction(sig, &dfl, nil); err != nil {
			return fmt.Errorf("cannot reset signal %d: %w", sig, err)
		}
	}
	return nil
}

type spawnerProcess struct {
	spawner *program.Spawner
	conn    *conn
}

// serve does one order.
func (s *spawnerProcess) serve() error {
	n, fds, err := s.conn.part()
	if err != nil {
		return err
	}
	defer func() { closeAll(fds) }()
	if n != orderSize {
		return fmt.Errorf("cannot read order: it has %d bytes", n)
	}
	order := binary.LittleEndian.Uint64(s.conn.buf)
	size, total := int(order&0xffffffff), int(order>>32)
	for len(fds) < total {
		_, more, err := s.conn.part()
		if err != nil {
			return err
		}
		fds = append(fds, more...)
	}
	if len(fds) == 0 || size <= 0 || size > 2*program.MaxData+program.MaxOps*128 {
		return fmt.Errorf("cannot read order: program of %d bytes, %d descriptors", size, len(fds))
	}
	flat, err := unix.Mmap(fds[0], 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("cannot map program: %w", err)
	}
	defer unix.Munmap(flat)
	res, err := s.spawner.Spawn(flat, fds[1:])
	if res.PidFD >= 0 {
		defer unix.Close(res.PidFD)
	}
	return s.report(res, err)
}

func (s *spawnerProcess) report(res program.Result, err error) error {
	var b [reportSize]byte
	var oob []byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(res.PID))
	le.PutUint32(b[4:], uint32(res.Prepared))
	le.PutUint32(b[8:], uint32(res.Op))
	le.PutUint32(b[12:], uint32(res.Errno))
	if err != nil {
		errno := syscall.EINVAL
		errors.As(err, &errno)
		le.PutUint32(b[16:], uint32(errno))
	}
	if res.PidFD >= 0 {
		oob = unix.UnixRights(res.PidFD)
	}
	if err := sendmsg(spawnerSocket, b[:], oob, forever); err != nil {
		return os.NewSyscallError("send report", err)
	}
	return nil
}
