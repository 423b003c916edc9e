// Package keeper holds what must outlive the daemon: it is the parent of every
// container, owns their standard streams and log files, and keeps a descriptor
// of everything that dies with its last reference (namespaces, pipes, pidfds).
//
// Three processes, one conversation each (SOCK_SEQPACKET, descriptors ride along):
//
//	serve (Client) ──message──▶ keeper (Run) ──order──▶ spawner (RunSpawner)
//
// The keeper sees descriptors and flat programs only: no gRPC, no images, no
// path. Daemon and keeper hold duplicates of the same descriptors (double
// custody): whichever dies, the other hands them to its successor.
package keeper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Version is the protocol's. Fields are only ever added; a keeper answers verbs
// it does not know with an error. Daemon and keeper greet each other with theirs,
// and the daemon asks nothing that came later (since).
//
//	1  the first
//	2  hello says which build; upgrade
const Version = 2

// since says with which version a verb came, if not with the first.
var since = map[string]int{verbUpgrade: 2}

// The verbs. Each request gets one reply with its Seq, but list, which gets one
// reply per item and then one without.
const (
	verbHello   = "hello"   // Version, PID and Build of the keeper back
	verbSpawn   = "spawn"   // Item, Program; descriptors: program, donated, kept
	verbAdopt   = "adopt"   // Item; descriptors: kept, for a pod or after a keeper's death
	verbRelease = "release" // Item.ID: forget it, close all
	verbRelog   = "relog"   // Item.ID; descriptor: log
	verbTap     = "tap"     // Item.ID; descriptors: stdout, stderr: copies of output from now on
	verbClose   = "close"   // Item.ID, Names: close these kept descriptors
	verbList    = "list"    //
	verbUpgrade = "upgrade" // Build; descriptor: binary to go on as; what hello has back
	verbStop    = "stop"    // end the keeper, if it keeps nothing
	verbFull    = "full"    // keeper to daemon, unasked: Item's log cannot be written, for Err
	verbExit    = "exit"    // keeper to daemon, unasked: Item has exited
)

// Kinds of item.
const (
	KindPod       = "pod"       // namespaces and mounts; no process
	KindContainer = "container" // a process with logs
	KindExec      = "exec"      // a process without
)

// An Item is what the keeper holds under one id.
type Item struct {
	ID   string `json:"id"`
	Kind string `json:"kind,omitempty"`
	// PID is the process as the host sees it; 0 for a pod without one.
	PID int `json:"pid,omitempty"`
	// Names are those of the kept descriptors, in the order in which they travel.
	Names []string `json:"names,omitempty"`
	// Log says how output is logged; nil: it is not.
	Log *Log `json:"log,omitempty"`
	// Exit is set once the process has ended and its output has been written.
	Exit *Exit `json:"exit,omitempty"`
}

// A Log is the form of a container's log.
type Log struct {
	// MaxLine is the length, in bytes, above which a line is written in parts
	// tagged P.
	MaxLine int `json:"max_line"`
	// Drops counts bytes that could not be written (disk full); reported back.
	Drops uint64 `json:"drops,omitempty"`
}

// An Exit is the end of a process.
type Exit struct {
	// Code is the exit status, 128+n after signal n, or 255 with Unknown.
	Code int `json:"code"`
	// Signal is the signal that ended it, or 0.
	Signal int `json:"signal,omitempty"`
	// At is when the pidfd became readable.
	At time.Time `json:"at"`
	// Unknown says why nobody could see the status; "" if it was seen.
	Unknown string `json:"unknown,omitempty"`
	// Kills is how many processes of its control group had been killed by then for want
	// of memory; nil if FDKills was not kept.
	Kills *uint64 `json:"kills,omitempty"`
}

// Names of kept descriptors with a meaning to the keeper.
const (
	FDPid      = "pidfd"
	FDStdin    = "stdin"  // write end
	FDStdout   = "stdout" // read end
	FDStderr   = "stderr" // read end
	FDTTY      = "tty"    // master
	FDLog      = "log"
	FDStashOut = "stash-stdout" // a file that output passes through, see stash.go
	FDStashErr = "stash-stderr"
	FDKills    = "kills" // memory.events of a control group that systemd removes
	// FDSliceKills is that of the one above, in which all of a pod are.
	FDSliceKills = "slice-kills"
)

// A spawnResult is how a program went, in the terms of program.Result.
type spawnResult struct {
	PID   int `json:"pid"`
	Op    int `json:"op,omitempty"`
	Errno int `json:"errno,omitempty"`
	// Stuck says that a call had not returned in time; Op is then how many calls
	// were left, that one included.
	Stuck bool `json:"stuck,omitempty"`
}

type message struct {
	Seq     uint64   `json:"seq,omitempty"`
	Verb    string   `json:"verb,omitempty"`
	Version int      `json:"version,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Build   string   `json:"build,omitempty"`
	Item    *Item    `json:"item,omitempty"`
	Names   []string `json:"close,omitempty"`
	FDs     int      `json:"fds,omitempty"`     // how many descriptors belong to this message
	Donated int      `json:"donated,omitempty"` // spawn: how many of them, after the program, it uses
	// Detached: the process is nobody's item, and reports by its own means.
	Detached bool         `json:"detached,omitempty"`
	Timeout  int          `json:"timeout_ms,omitempty"`
	Result   *spawnResult `json:"result,omitempty"`
	Err      string       `json:"err,omitempty"`
	// Lost: the spawner died at it. Nothing is wrong with the program.
	Lost bool `json:"lost,omitempty"`

	sent func() // called when it is on its way, if set
}

const (
	maxMessage = 128 << 10
	fdsPerPart = 200
	maxRights  = 253 // SCM_MAX_FD
)

var errTooLarge = errors.New("message is larger than 128 KiB")

// send writes m and its descriptors, which stay the caller's. It waits for as long as
// the other side's queue is full: a daemon that was stopped wants to know what ended.
func send(fd int, m *message, fds []int) error { return sendWithin(forever, fd, m, fds) }

const forever = -time.Millisecond // in poll(2), no bound

// sendWithin is send that waits for a time only. After errHung a part of m may have
// gone: nothing else can be sent on fd.
func sendWithin(bound time.Duration, fd int, m *message, fds []int) error {
	m.FDs = len(fds)
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("cannot send %s: %w", m.Verb, errTooLarge)
	}
	for first := true; first || len(fds) > 0; first = false {
		n := min(len(fds), fdsPerPart)
		var oob []byte
		if n > 0 {
			oob = unix.UnixRights(fds[:n]...)
		}
		if err := sendmsg(fd, b, oob, bound); err != nil {
			return fmt.Errorf("cannot send %s: %w", m.Verb, err)
		}
		fds, b = fds[n:], []byte{0}
	}
	return nil
}

// sendmsg waits while the other side's queue is full, also where receiving does not
// block (newConn).
func sendmsg(fd int, b, oob []byte, bound time.Duration) error {
	for {
		err := unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN {
			var n int
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(bound.Milliseconds()))
			if err == nil && n == 0 {
				return errHung
			}
			if err == nil {
				continue
			}
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// A conn is one side's receiving end. Not for concurrent use.
type conn struct {
	fd   int
	file *os.File // a duplicate in the poller, nil if reads block a thread
	buf  []byte
	oob  []byte
}

// newConn receives in Go's poller, for messages of up to size bytes: who waits for an
// answer goes on in the thread that saw it come. A thread that blocks in recvmsg(2)
// would have to wake another one. close it; fd stays the caller's.
func newConn(fd, size, fds int) (*conn, error) {
	mine, err := dup(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot receive: %w", err)
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		unix.Close(mine)
		return nil, fmt.Errorf("cannot receive: %w", err)
	}
	return &conn{fd: fd, file: os.NewFile(uintptr(mine), "socket"), buf: make([]byte, size), oob: make([]byte, unix.CmsgSpace(4*fds))}, nil
}

func (c *conn) close() { c.file.Close() }

// recvmsg gives the sizes of the message that is then in buf and oob.
func (c *conn) recvmsg() (n, oobn, flags int, err error) {
	once := func(fd uintptr) bool {
		n, oobn, flags, _, err = unix.Recvmsg(int(fd), c.buf, c.oob, unix.MSG_CMSG_CLOEXEC)
		return err != unix.EAGAIN
	}
	if c.file == nil {
		once(uintptr(c.fd))
		return n, oobn, flags, err
	}
	raw, waits := c.file.SyscallConn()
	if waits == nil {
		waits = raw.Read(once)
	}
	return n, oobn, flags, cmp.Or(waits, err)
}

// receive reads one message; the descriptors become the caller's. io.EOF means
// that the other side is gone.
func (c *conn) receive() (*message, []int, error) {
	n, fds, err := c.part()
	if err != nil {
		return nil, fds, err
	}
	m := new(message)
	if err := json.Unmarshal(c.buf[:n], m); err != nil {
		closeAll(fds)
		return nil, nil, fmt.Errorf("cannot decode message: %w", err)
	}
	for len(fds) < m.FDs {
		_, more, err := c.part()
		fds = append(fds, more...)
		if err != nil || len(more) == 0 {
			closeAll(fds)
			return nil, nil, fmt.Errorf("cannot receive %s: %d of %d descriptors came: %w", m.Verb, len(fds), m.FDs, errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
	return m, fds, nil
}

func (c *conn) part() (int, []int, error) {
	for {
		n, oobn, flags, err := c.recvmsg()
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, nil, os.NewSyscallError("recvmsg", err)
		}
		if n == 0 && oobn == 0 {
			return 0, nil, io.EOF
		}
		fds, err := rights(c.oob[:oobn])
		if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			err = errTooLarge
		}
		if err != nil {
			closeAll(fds)
			return 0, nil, err
		}
		return n, fds, nil
	}
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("parse control message", err)
	}
	var fds []int
	for i := range cmsgs {
		if cmsgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return fds, os.NewSyscallError("parse rights", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
