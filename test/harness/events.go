package harness

import (
	"encoding/binary"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Events are the kernel's process events (the connector of connector/cn_proc.c,
// linux/cn_proc.h): every fork and execve of the machine, in order, whoever made
// it. It works in the machine's own network namespace, where tests run.
type Events struct {
	fd int

	mu    sync.Mutex
	list  []Event
	err   error
	stop  chan struct{}
	ended chan struct{}
}

// An Event is one fork, execve or exit, by process and not by thread.
type Event struct {
	What   uint32 // EventFork, EventExec or EventExit
	PID    int
	Parent int // of a fork
}

// The events that are recorded, PROC_EVENT_* of linux/cn_proc.h.
const (
	EventFork = 0x00000001
	EventExec = 0x00000002
	EventExit = 0x80000000
)

// linux/connector.h and linux/cn_proc.h
const (
	cnIdxProc       = 1
	cnValProc       = 1
	procCNListen    = 1
	procEventHeader = 16 // what, cpu, timestamp
	cnHeader        = 20 // idx, val, seq, ack, len, flags
)

// WatchProcesses records events until the test ends.
func WatchProcesses(t testing.TB) *Events {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		t.Fatalf("cannot open the connector: %v", err)
	}
	e := &Events{fd: fd, stop: make(chan struct{}), ended: make(chan struct{})}
	if err := e.listen(); err != nil {
		unix.Close(fd)
		t.Fatalf("cannot listen for process events: %v", err)
	}
	go e.read()
	t.Cleanup(func() {
		close(e.stop)
		<-e.ended
		unix.Close(fd)
	})
	return e
}

func (e *Events) listen() error {
	const big = 16 << 20 // nothing may be dropped while a test is busy
	if err := unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, big); err != nil {
		return err
	}
	// read looks whether to go on between two waits.
	if err := unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
		return err
	}
	if err := unix.Bind(e.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		return err
	}
	le := binary.NativeEndian
	msg := make([]byte, unix.NLMSG_HDRLEN+cnHeader+4)
	le.PutUint32(msg[0:], uint32(len(msg)))
	le.PutUint16(msg[4:], unix.NLMSG_DONE)
	le.PutUint32(msg[unix.NLMSG_HDRLEN:], cnIdxProc)
	le.PutUint32(msg[unix.NLMSG_HDRLEN+4:], cnValProc)
	le.PutUint16(msg[unix.NLMSG_HDRLEN+16:], 4)
	le.PutUint32(msg[unix.NLMSG_HDRLEN+cnHeader:], procCNListen)
	return unix.Sendto(e.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (e *Events) read() {
	defer close(e.ended)
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-e.stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(e.fd, buf, 0)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil { // ENOBUFS: some were dropped
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
		e.add(buf[:n])
	}
}

func (e *Events) add(msg []byte) {
	if len(msg) < unix.NLMSG_HDRLEN+cnHeader+procEventHeader+16 {
		return
	}
	le := binary.NativeEndian
	event := msg[unix.NLMSG_HDRLEN+cnHeader:]
	data := event[procEventHeader:]
	field := func(n int) int { return int(le.Uint32(data[4*n:])) }
	e.mu.Lock()
	defer e.mu.Unlock()
	switch what := le.Uint32(event); what {
	case EventFork: // parent pid, tgid, child pid, tgid
		if field(2) == field(3) {
			e.list = append(e.list, Event{EventFork, field(3), field(1)})
		}
	case EventExec, EventExit: // pid, tgid
		if what == EventExec || field(0) == field(1) {
			e.list = append(e.list, Event{what, field(1), 0})
		}
	}
}

// Take returns the events so far and forgets them. It makes a process of its own
// and waits for that one's end, so that all that came before is there.
func (e *Events) Take(t testing.TB) []Event {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	mark := cmd.Process.Pid
	var taken []Event
	seen := within(waitTimeout, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for n, ev := range e.list {
			if ev.What == EventExit && ev.PID == mark {
				taken, e.list = slices.Clone(e.list[:n]), e.list[n+1:]
				return true
			}
		}
		return e.err != nil
	})
	if !seen || e.err != nil {
		t.Fatalf("process events do not arrive: %v", e.err)
	}
	return slices.DeleteFunc(taken, func(ev Event) bool { return ev.PID == mark })
}

// Family keeps the events of some processes and of all that they fork, from the
// moment that they are asked about.
func Family(events []Event, pids ...int) []Event {
	family := map[int]bool{}
	for _, pid := range pids {
		family[pid] = true
	}
	var list []Event
	for _, ev := range events {
		if ev.What == EventFork && family[ev.Parent] {
			family[ev.PID] = true
		}
		if family[ev.PID] {
			list = append(list, ev)
		}
	}
	return list
}

// Execs counts the execve among events.
func Execs(events []Event) int {
	n := 0
	for _, ev := range events {
		if ev.What == EventExec {
			n++
		}
	}
	return n
}
