package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxInterfaces is how many interfaces of one namespace are read: a container
// with CAP_NET_ADMIN makes as many as it likes.
const maxInterfaces = 50

// answerBound is how long the kernel has for one answer; it takes microseconds.
var answerBound = unix.Timeval{Sec: 2}

// An Interface is what went through one network interface.
type Interface struct {
	Name   string
	RX, TX Traffic
}

// Traffic is one direction of it.
type Traffic struct{ Bytes, Packets, Errors, Dropped uint64 }

// A Counter reads the counters of one namespace after the other on one thread of
// its own, which ends with Close.
type Counter struct {
	ask    chan int
	answer chan counted
}

type counted struct {
	interfaces []Interface
	err        error
}

// NewCounter starts one. It is used by one goroutine at a time, which closes it.
func NewCounter() *Counter {
	c := &Counter{make(chan int), make(chan counted)}
	onOwnThread(func() {
		for fd := range c.ask {
			interfaces, err := countIn(fd)
			c.answer <- counted{interfaces, err}
		}
	})
	return c
}

// Close ends the thread.
func (c *Counter) Close() { close(c.ask) }

// Interfaces reads the counters of the network namespace fd; those of lo, where
// nothing comes in or goes out, are left out.
func (c *Counter) Interfaces(fd int) ([]Interface, error) {
	c.ask <- fd
	r := <-c.answer
	return r.interfaces, r.err
}

func countIn(fd int) ([]Interface, error) {
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("cannot enter network namespace: %w", err)
	}
	interfaces, err := dumpLinks()
	if err != nil {
		return nil, fmt.Errorf("cannot read interface counters: %w", err)
	}
	return interfaces, nil
}

// dumpLinks asks rtnetlink(7) for all links of this thread's namespace.
func dumpLinks() ([]Interface, error) {
	sock, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(sock)
	if err := unix.SetsockoptTimeval(sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerBound); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendto(sock, linkRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var out []Interface
	buf := make([]byte, 32<<10) // rtnetlink fills at most so much at a time
	for len(out) < maxInterfaces {
		n, _, err := unix.Recvfrom(sock, buf, 0)
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		more, err := takeLinks(buf[:n], &out)
		if err != nil || !more {
			return out, err
		}
	}
	return out, nil
}

// linkRequest is RTM_GETLINK as a dump.
func linkRequest() []byte {
	const length = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	b := make([]byte, length)
	binary.NativeEndian.PutUint32(b[0:], length)
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	return b
}

// takeLinks adds the links of one datagram and tells whether another follows.
func takeLinks(datagram []byte, out *[]Interface) (more bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return false, nil
		case unix.NLMSG_ERROR:
			return false, errors.New("the kernel refuses the request")
		case unix.RTM_NEWLINK:
			if i, ok := link(m); ok && len(*out) < maxInterfaces {
				*out = append(*out, i)
			}
		}
	}
	return true, nil
}

// link reads one RTM_NEWLINK message; false for lo.
func link(m syscall.NetlinkMessage) (Interface, bool) {
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil || len(m.Data) < unix.SizeofIfInfomsg {
		return Interface{}, false
	}
	if binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_LOOPBACK != 0 { // ifi_flags
		return Interface{}, false
	}
	var i Interface
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_STATS64:
			i.RX, i.TX = traffic(a.Value, 0), traffic(a.Value, 1)
		}
	}
	return i, i.Name != ""
}

// traffic reads one direction out of struct rtnl_link_stats64, where rx and tx
// alternate: packets, bytes, errors, dropped.
func traffic(stats []byte, direction int) Traffic {
	at := func(pair int) uint64 {
		offset := 8 * (2*pair + direction)
		if len(stats) < offset+8 {
			return 0
		}
		return binary.NativeEndian.Uint64(stats[offset:])
	}
	return Traffic{Packets: at(0), Bytes: at(1), Errors: at(2), Dropped: at(3)}
}
