package keeper

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A waiter waits for one process through its pidfd, which a goroutine can park
// on: no SIGCHLD handler, no wait4(-1), so that nobody's zombie is taken away.
type waiter struct {
	f   *os.File // the pidfd, in the poller
	raw syscall.RawConn
	pid int
	at  time.Time // when it had ended
	// traced: how it ended is known, and it is there still (reap).
	traced bool
}

// newWaiter takes over pidfd.
func newWaiter(pidfd, pid int) (*waiter, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	return &waiter{f: f, raw: raw, pid: pid}, nil
}

// unknownBound is how long a process that ended as somebody else's child may
// stay a zombie before its status counts as unknown.
const unknownBound = 5 * time.Second

// wait blocks until the process has ended, reaps it if it is our child, and says
// how it ended. An error means that the waiter was closed.
func (w *waiter) wait() (Exit, error) {
	if err := w.ended(); err != nil {
		return Exit{}, err
	}
	return w.exit(), nil
}

// ended blocks until the process has ended.
func (w *waiter) ended() error {
	err := w.readable(unix.POLLIN)
	w.at = time.Now()
	return err
}

// exit reaps a process that ended, if it is our child, and says how it ended.
func (w *waiter) exit() Exit {
	status, err := w.status()
	if err != nil {
		return Exit{Code: 255, At: w.at, Unknown: err.Error()}
	}
	return exitOf(status, w.at)
}

// readable parks until poll(2) on the pidfd shows one of events: POLLIN for a
// process that ended, POLLHUP for one that was reaped too.
func (w *waiter) readable(events int16) error {
	return w.raw.Read(func(fd uintptr) bool { return polled(fd, events) })
}

func polled(fd uintptr, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(events|unix.POLLNVAL) != 0
}

// status finds the wait status: by reaping our child, else from the zombie that
// another parent has, else from what the kernel keeps for pidfd holders (6.15).
func (w *waiter) status() (syscall.WaitStatus, error) {
	status, err := w.reap()
	if err == nil || !errors.Is(err, unix.ECHILD) {
		return status, err
	}
	if status, err := w.zombieStatus(); err == nil {
		return status, nil
	}
	if w.gone() {
		return w.infoStatus()
	}
	w.f.SetReadDeadline(time.Now().Add(unknownBound))
	if err := w.readable(unix.POLLHUP); err != nil {
		return 0, fmt.Errorf("the keeper that was its parent is dead, and it has not been reaped since")
	}
	return w.infoStatus()
}

// gone says whether the process was reaped, of which poll(2) tells since Linux 6.9 only.
func (w *waiter) gone() (yes bool) {
	err := w.raw.Control(func(fd uintptr) { yes = unix.PidfdSendSignal(int(fd), 0, nil, 0) == unix.ESRCH })
	return err == nil && yes
}

// kill ends the process, unless it has ended or the waiter is closed.
func (w *waiter) kill() {
	w.raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
}

// reap takes the wait status of our child. One that another process traces is that
// one's to reap first, when it likes (wait_consider_task in kernel/exit.c): then the
// status is the zombie's, which rest reaps. Between the two the kernel wakes us again.
func (w *waiter) reap() (status syscall.WaitStatus, err error) {
	waits := w.raw.Read(func(fd uintptr) bool {
		var info siginfoChild
		if info, err = waitid(fd, unix.WEXITED|unix.WNOHANG); err != nil || info.pid != 0 {
			status = info.waitStatus()
			return true
		}
		var zombie error
		if status, zombie = w.zombieStatus(); zombie != nil {
			return false
		}
		w.traced = true
		return true
	})
	return status, cmp.Or(err, waits)
}

// rest reaps what was traced when it ended, once its tracer lets go of it. A zombie in
// a container's PID namespace would keep the container's own end waiting
// (zap_pid_ns_processes in kernel/pid_namespace.c).
func (w *waiter) rest() {
	w.raw.Read(func(fd uintptr) bool {
		info, err := waitid(fd, unix.WEXITED|unix.WNOHANG)
		return err != nil || info.pid != 0
	})
}

// reapRest reaps a process whose end an earlier build saw while it was traced, if it is
// a zombie of ours still.
func (k *keeper) reapRest(pidfd, pid int) error {
	if _, err := waitid(uintptr(pidfd), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
		return nil
	}
	own, err := dup(pidfd)
	if err != nil {
		return err
	}
	w, err := newWaiter(own, pid)
	if err == nil {
		k.stray(w, w.rest)
	}
	return err
}

func waitid(pidfd uintptr, options int) (info siginfoChild, err error) {
	for {
		_, _, errno := syscall.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, pidfd, uintptr(unsafe.Pointer(&info)), uintptr(options), 0, 0)
		switch errno {
		case 0:
			return info, nil
		case unix.EINTR:
		default:
			return info, errno
		}
	}
}

// siginfoChild is siginfo_t as waitid(2) fills it for SIGCHLD.
type siginfoChild struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

// waitStatus is the same as wait4(2) would have given.
func (s *siginfoChild) waitStatus() syscall.WaitStatus {
	const cldExited, cldDumped = 1, 3
	switch s.code {
	case cldExited:
		return syscall.WaitStatus(s.status << 8)
	case cldDumped:
		return syscall.WaitStatus(s.status | 0x80)
	}
	return syscall.WaitStatus(s.status)
}

// zombieStatus reads field 52 of /proc/PID/stat (proc(5)), which is the wait
// status of a process that ended and was not reaped yet. The pidfd is asked
// again afterwards: as long as it is not reaped, the pid is still its own.
func (w *waiter) zombieStatus() (syscall.WaitStatus, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 50 || string(fields[0]) != "Z" {
		return 0, fmt.Errorf("process %d is not a zombie", w.pid)
	}
	status, err := strconv.Atoi(string(fields[49]))
	if err != nil {
		return 0, err
	}
	if w.gone() {
		return 0, unix.ESRCH
	}
	return syscall.WaitStatus(status), nil
}

// without has pidfd-info among what this kernel shall be taken not to have, as in
// oci/mount.
const without = "CRI_BOX_WITHOUT"

func pidfdInfo(pidfd int, info *unix.PidfdInfo) error {
	if slices.Contains(strings.Split(os.Getenv(without), ","), "pidfd-info") {
		return unix.ENOTTY
	}
	return unix.IoctlPidfdInfo(pidfd, info)
}

// infoStatus asks the kernel what it keeps for a reaped process (PIDFD_GET_INFO
// with PIDFD_INFO_EXIT, Linux 6.15).
func (w *waiter) infoStatus() (status syscall.WaitStatus, err error) {
	ctl := w.raw.Control(func(fd uintptr) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if err = pidfdInfo(int(fd), &info); err != nil {
			err = fmt.Errorf("the keeper that was its parent is dead, and this kernel does not keep the status (PIDFD_GET_INFO, Linux 6.15): %w", err)
			return
		}
		if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			err = errors.New("the keeper that was its parent is dead, and the kernel has no status")
			return
		}
		status = syscall.WaitStatus(info.Exit_code)
	})
	return status, errors.Join(ctl, err)
}

func exitOf(status syscall.WaitStatus, at time.Time) Exit {
	if status.Signaled() {
		return Exit{Code: 128 + int(status.Signal()), Signal: int(status.Signal()), At: at}
	}
	return Exit{Code: status.ExitStatus(), At: at}
}

// reapPID waits for a child that is about to exit: one that prepared another.
func reapPID(pid int) {
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		if err != unix.EINTR {
			return
		}
	}
}
