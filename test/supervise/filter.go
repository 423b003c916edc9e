// Package supervise asks a test before each system call of a program that changes
// files or takes memory: seccomp's user notification (seccomp_unotify(2)). The test
// lets the call go on, answers in the kernel's place, or makes it wait.
package supervise

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls are those that the kernel asks about: of openat only what may make or empty
// a file.
var Calls = map[uint32]string{
	unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_MKNODAT: "mknodat",
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_COPY_FILE_RANGE: "copy_file_range",
	unix.SYS_FSYNC:           "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNCFS: "syncfs", unix.SYS_SYNC: "sync",
}

// Memory are calls without a name of a file that need the kernel's memory.
var Memory = map[uint32]string{
	unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount",
	unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_MOUNT: "mount",
	unix.SYS_UNSHARE: "unshare", unix.SYS_SETNS: "setns", unix.SYS_SOCKETPAIR: "socketpair",
}

// filter is the BPF program; offsets are those of struct seccomp_data.
func filter(calls map[uint32]string) []unix.SockFilter {
	const ld, jeq, jset, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const allow, ask = 0x7fff0000, 0x7fc00000
	prog := []unix.SockFilter{{Code: ld, K: 0},
		{Code: jeq, Jf: 4, K: unix.SYS_OPENAT},
		{Code: ld, K: 16 + 2*8}, // flags
		{Code: jset, Jf: 1, K: unix.O_CREAT | unix.O_TRUNC},
		{Code: ret, K: ask},
		{Code: ret, K: allow}}
	for nr := range calls {
		if nr != unix.SYS_OPENAT {
			prog = append(prog, unix.SockFilter{Code: jeq, Jf: 1, K: nr}, unix.SockFilter{Code: ret, K: ask})
		}
	}
	return append(prog, unix.SockFilter{Code: ret, K: allow})
}

// Begin has the kernel ask about these calls of this thread and what it starts, or
// of all threads of this process, and sends the descriptor that it asks on to conn.
func Begin(conn int, allThreads bool, calls map[uint32]string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	prog := filter(calls)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	const setModeFilter, tsync, newListener, tsyncESRCH = 1, 1 << 0, 1 << 3, 1 << 4
	flags := uintptr(newListener)
	if allThreads {
		flags |= tsync | tsyncESRCH
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("cannot install filter: %w", errno)
	}
	defer unix.Close(int(fd))
	return unix.Sendmsg(conn, []byte{0}, unix.UnixRights(int(fd)), nil, 0)
}

// Take is the other side of Begin.
func Take(conn int) (fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("it ended: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// notification is struct seccomp_notif.
type notification struct {
	ID         uint64
	PID, Flags uint32
	Nr         int32
	Arch       uint32
	IP         uint64
	Args       [6]uint64
}

type response struct {
	ID           uint64
	Val          int64
	Error, Flags int32
}

const (
	ioctlRecv = 0xc0502100
	ioctlSend = 0xc0182101
	goOn      = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// An Answer is what becomes of a call.
type Answer int

const (
	GoOn Answer = 0 // the kernel does it
	Done Answer = 1 // it returns 0, and is not done
	// Minus an errno: it fails so.
)

// Fail is the answer that a call has failed.
func Fail(errno unix.Errno) Answer { return -Answer(errno) }

// Next takes what the kernel asks next; nil when nobody is left whom it could ask
// about.
func Next(fd int) (*Call, error) {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == unix.EINTR {
			continue
		}
		if p[0].Revents&unix.POLLIN == 0 {
			return nil, nil // the last thread is gone
		}
		var n notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlRecv, uintptr(unsafe.Pointer(&n)))
		if errno == unix.EINTR || errno == unix.ENOENT { // a signal took the call back
			continue
		}
		if errno != 0 {
			return nil, errno
		}
		return &Call{fd: fd, id: n.ID, TID: int(n.PID), Nr: uint32(n.Nr), Args: n.Args}, nil
	}
}

// Answer answers; the thread may be gone.
func (c *Call) Answer(a Answer) {
	resp := response{ID: c.id}
	switch {
	case a == GoOn:
		resp.Flags = goOn
	case a < 0:
		resp.Error = int32(a)
	}
	unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), ioctlSend, uintptr(unsafe.Pointer(&resp)))
}
