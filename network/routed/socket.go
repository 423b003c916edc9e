package routed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A socket speaks netlink(7) in one network namespace. It blocks the thread that
// uses it: a library's is watched by Go's poller, and each answer wakes a second
// thread for nothing. Used by one goroutine at a time.
type socket struct {
	fd     int
	seq    uint32
	answer []byte
}

// openSocket opens one in the calling thread's network namespace.
func openSocket(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("cannot open netlink socket: %w", err)
	}
	bound := unix.NsecToTimeval(kernelTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &bound); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot bound netlink socket: %w", err)
	}
	return &socket{fd: fd, answer: make([]byte, 16<<10)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// do sends all messages of the batch at once. The kernel takes them one after the
// other and goes on after one that fails; what do returns is the first failure that
// is not among those its message allows. found is told each object that was asked
// for (RTM_NEW…); it may be nil.
func (s *socket) do(b *batch, found func(kind uint16, data []byte)) error {
	if len(b.messages) == 0 {
		return nil
	}
	first := s.seq + 1
	for i, m := range b.messages {
		s.seq++
		binary.NativeEndian.PutUint32(b.buf[m.at+8:], s.seq)
		end := len(b.buf)
		if i+1 < len(b.messages) {
			end = b.messages[i+1].at
		} else { // one acknowledgement, of the last: the others speak only if they fail
			binary.NativeEndian.PutUint16(b.buf[m.at+6:], binary.NativeEndian.Uint16(b.buf[m.at+6:])|unix.NLM_F_ACK)
		}
		binary.NativeEndian.PutUint32(b.buf[m.at:], uint32(end-m.at))
	}
	if err := unix.Sendto(s.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", os.NewSyscallError("sendto", err))
	}
	var failed error
	for {
		last, err := s.receive(b, first, found, &failed)
		if err != nil {
			return fmt.Errorf("cannot ask the kernel: %w", err)
		}
		if last {
			return failed
		}
	}
}

// receive takes one datagram and says whether the last message is answered.
func (s *socket) receive(b *batch, first uint32, found func(uint16, []byte), failed *error) (last bool, err error) {
	n, _, err := unix.Recvfrom(s.fd, s.answer, 0)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("recvfrom", err)
	}
	for rest := s.answer[:n]; len(rest) >= unix.SizeofNlMsghdr; {
		size := int(binary.NativeEndian.Uint32(rest))
		if size < unix.SizeofNlMsghdr || size > len(rest) {
			return false, errors.New("the answer is cut off")
		}
		kind, seq, data := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint32(rest[8:]), rest[unix.SizeofNlMsghdr:size]
		rest = rest[min(align(size), len(rest)):]
		index := int(seq - first)
		if index < 0 || index >= len(b.messages) {
			continue // of a batch that was given up
		}
		if kind != unix.NLMSG_ERROR {
			if found != nil {
				found(kind, data)
			}
			continue
		}
		if len(data) < 4 {
			return false, errors.New("the answer is cut off")
		}
		if code := int32(binary.NativeEndian.Uint32(data)); code != 0 && *failed == nil {
			*failed = b.messages[index].err(unix.Errno(-code))
		}
		last = last || index == len(b.messages)-1
	}
	return last, nil
}

func align(n int) int { return (n + 3) &^ 3 }

// A batch is messages that go to the kernel together.
type batch struct {
	buf      []byte
	messages []message
}

// A message is where it begins in the batch, what it does, for the error, and the
// failures that are none.
type message struct {
	at      int
	what    string
	of      any
	allowed []unix.Errno
}

func (m message) err(e unix.Errno) error {
	if slices.Contains(m.allowed, e) {
		return nil
	}
	return fmt.Errorf("cannot "+m.what+": %w", m.of, e)
}

// add begins a message: what is a format with one verb, for of.
func (b *batch) add(kind, flags uint16, head []byte, what string, of any) {
	b.messages = append(b.messages, message{at: len(b.buf), what: what, of: of})
	b.buf = append(b.buf, 0, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, kind)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flags|unix.NLM_F_REQUEST)
	b.buf = append(b.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	b.buf = append(b.buf, head...)
	b.pad()
}

// allow says which failures of the message are none.
func (b *batch) allow(errnos ...unix.Errno) { b.messages[len(b.messages)-1].allowed = errnos }

func (b *batch) pad() {
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// attr adds an attribute to the message.
func (b *batch) attr(kind uint16, data []byte) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(4+len(data)))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, kind)
	b.buf = append(b.buf, data...)
	b.pad()
}

func (b *batch) text(kind uint16, s string) { b.attr(kind, append([]byte(s), 0)) }

func (b *batch) number(kind uint16, n uint32) {
	b.attr(kind, binary.NativeEndian.AppendUint32(nil, n))
}

// nest adds an attribute of attributes: those that in adds, after head.
func (b *batch) nest(kind uint16, head []byte, in func()) {
	at := len(b.buf)
	b.attr(kind, head)
	in()
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

// attribute is the first of a kind among attributes, nil if there is none.
func attribute(attrs []byte, kind uint16) []byte {
	for len(attrs) >= 4 {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			return nil
		}
		if binary.NativeEndian.Uint16(attrs[2:])&^unix.NLA_F_NESTED == kind {
			return attrs[4:size]
		}
		attrs = attrs[min(align(size), len(attrs)):]
	}
	return nil
}

// A route is what rtnetlink's messages about routes say.
type route struct {
	to    netip.Prefix
	by    netip.Addr // the gateway; the zero one: the link itself
	link  int
	table uint8
	scope uint8
	kind  uint8 // RTN_UNICAST if zero
	flags uint32
}

func familyOf(ip netip.Addr) byte {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// route adds or deletes one.
func (b *batch) route(kind, flags uint16, r route) {
	what, protocol := "add route to %s", byte(unix.RTPROT_STATIC)
	if kind == unix.RTM_DELROUTE {
		what, protocol = "delete route to %s", unix.RTPROT_UNSPEC // whoever made it
	}
	if r.kind == 0 {
		r.kind = unix.RTN_UNICAST
	}
	head := []byte{familyOf(r.to.Addr()), byte(r.to.Bits()), 0, 0, r.table, protocol, r.scope, r.kind} // struct rtmsg
	b.add(kind, flags, binary.NativeEndian.AppendUint32(head, r.flags), what, r.to)
	b.attr(unix.RTA_DST, r.to.Addr().AsSlice())
	b.number(unix.RTA_OIF, uint32(r.link))
	if r.by.IsValid() {
		b.attr(unix.RTA_GATEWAY, r.by.AsSlice())
	}
}

// wayTo is the index of the link by which packets for ip leave.
func (s *socket) wayTo(ip netip.Addr) (link int, err error) {
	b := &batch{}
	b.wayTo(ip, 0)
	err = s.do(b, func(kind uint16, data []byte) {
		if kind != unix.RTM_NEWROUTE || len(data) < unix.SizeofRtMsg {
			return
		}
		if index := attribute(data[unix.SizeofRtMsg:], unix.RTA_OIF); len(index) == 4 {
			link = int(binary.NativeEndian.Uint32(index))
		}
	})
	if err == nil && link == 0 {
		err = fmt.Errorf("cannot find the way to %s: it leads to no link", ip)
	}
	return link, err
}

// wayTo asks for the route to ip. With RTM_F_FIB_MATCH the answer is the entry of the
// table; without it also the source address, for which IPv6 looks through all links of
// the host, and which of several next hops it is.
func (b *batch) wayTo(ip netip.Addr, flags uint32) {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[1] = familyOf(ip), byte(ip.BitLen())
	binary.NativeEndian.PutUint32(head[8:], flags) // rtm_flags
	b.add(unix.RTM_GETROUTE, 0, head, "find the way to %s", ip)
	b.attr(unix.RTA_DST, ip.AsSlice())
}

// neighbour says for good which hardware address ip has.
func (b *batch) neighbour(link int, ip netip.Addr, mac net.HardwareAddr) {
	head := []byte{familyOf(ip), 0, 0, 0} // struct ndmsg
	head = binary.NativeEndian.AppendUint32(head, uint32(link))
	head = binary.NativeEndian.AppendUint16(head, unix.NUD_PERMANENT)
	b.add(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, append(head, 0, 0), "set neighbour %s", ip)
	b.attr(unix.NDA_DST, ip.AsSlice())
	b.attr(unix.NDA_LLADDR, mac)
}

// address gives a link an address. Without duplicate address detection: nobody
// else is on the wire, and it takes a second.
func (b *batch) address(link int, ip netip.Addr) {
	head := []byte{familyOf(ip), byte(ip.BitLen()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE} // struct ifaddrmsg
	b.add(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, binary.NativeEndian.AppendUint32(head, uint32(link)), "give eth0 the address %s", ip)
	b.attr(unix.IFA_LOCAL, ip.AsSlice())
	b.attr(unix.IFA_ADDRESS, ip.AsSlice())
}
