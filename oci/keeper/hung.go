package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper does nothing that takes long: one that does not answer is stopped, or
// wrong, or in the D state. It is killed, and the next one gets everything from
// the daemon's custody; its containers notice nothing.
const (
	// greetBound is how long a keeper that accepted may take to say hello.
	greetBound = 5 * time.Second
	// beginBound is how long one may take that was started just now: on a machine with
	// too much to do, as while it boots, a program takes seconds to be read and to run.
	beginBound = 25 * time.Second
	// answerBound is how long one may take for an answer, beside the time that a
	// spawn was given.
	answerBound = 5 * time.Second
	// listBound is how long one may take to tell all that it keeps: a node's worth
	// of containers takes milliseconds.
	listBound = 15 * time.Second
	// deathBound is how long it may take to die of SIGKILL.
	deathBound = 5 * time.Second
)

var errHung = errors.New("the keeper does not answer")

// ask is answer with a bound of the link's own. A keeper that exceeds it is
// killed, which the caller sees as ErrKeeperLost.
func (l *link) ask(ctx context.Context, m *message, fds []int) (*message, []int, error) {
	bound := answerBound + time.Duration(m.Timeout)*time.Millisecond
	if m.Verb == verbSpawn && m.Timeout <= 0 {
		bound += spawnBound
	}
	within, cancel := context.WithTimeoutCause(ctx, bound, errHung)
	defer cancel()
	reply, got, err := l.answer(within, m, fds)
	if !errors.Is(err, errHung) || ctx.Err() != nil {
		return reply, got, err
	}
	slog.Error("the keeper is killed, for it does not answer", "pid", l.pid, "request", m.Verb, "within", bound)
	if err := killKeeper(l.pid); err != nil {
		return nil, nil, err
	}
	return nil, nil, ErrKeeperLost
}

// killKeeper kills a hung keeper and waits for its end.
func killKeeper(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open keeper %d, which does not answer: %w", pid, err)
	}
	defer unix.Close(pidfd)
	if !isKeeper(pid) {
		return nil // it has gone, and another process has its pid
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill keeper %d, which does not answer: %w", pid, err)
	}
	for end := time.Now().Add(deathBound); time.Now().Before(end); {
		p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(time.Until(end).Milliseconds())+1)
		if err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("keeper %d does not answer and does not die: it hangs in the kernel (see /proc/%d/stack)", pid, pid)
}

func isKeeper(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	args := strings.Split(string(b), "\x00")
	return err == nil && len(args) > 1 && args[1] == RoleKeeper
}

// peerPID is who listens on the other side of a connection: listen(2) notes it,
// and the keeper calls that itself (Run).
func peerPID(fd int) int {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}
