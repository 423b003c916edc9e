package networktest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
)

// sctpTraffic is traffic and host ports by SCTP. Not every kernel has it: Debian's,
// in which hack/vm/test.sh runs this, does.
func sctpTraffic(l *Lab) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		l.T.Skip("this kernel has no SCTP")
	}
	if err != nil {
		l.T.Fatal(err)
	}
	unix.Close(fd)
	p := l.Pod(network.PortMapping{Protocol: network.SCTP, ContainerPort: 80, HostPort: 8080})
	other := l.Pod()
	l.ServeSCTP(p.NetNS, "pod", 80)
	for _, v4 := range families {
		node, out := pick(v4, Node4, Node6), pick(v4, Outside4, Outside6)
		l.expectSCTP(other.NetNS, l.Addr(p, v4), 80, "pod "+l.Addr(other, v4))
		l.expectSCTP(l.Outside, node, 8080, "pod "+out)
		l.expectSCTP(other.NetNS, node, 8080, "pod ")
		l.expectSCTP(l.Node, node, 8080, "pod ")
		if got, err := l.AskSCTP(l.Outside, node, 8081); err == nil {
			l.T.Errorf("SCTP to %s port 8081: answer %q, want none", node, got)
		}
	}
	l.ServeSCTP(l.Outside, "world", 82)
	for _, v4 := range families {
		l.expectSCTP(p.NetNS, pick(v4, Outside4, Outside6), 82, "world "+pick(v4, Node4, Node6))
	}
	if err := l.Detach(p); err != nil {
		l.T.Fatal(err)
	}
	if got, err := l.AskSCTP(l.Outside, Node4, 8080); err == nil {
		l.T.Errorf("SCTP to a detached pod's port: answer %q, want none", got)
	}
}

// expectSCTP wants an answer that begins so: the source of what comes by the node's
// own address is the network's choice.
func (l *Lab) expectSCTP(ns int, host string, port int, want string) {
	l.T.Helper()
	if got, err := l.AskSCTP(ns, host, port); err != nil || !strings.HasPrefix(got, want) {
		l.T.Errorf("SCTP to %s port %d: answer %q, want %q, error %v", host, port, got, want, err)
	}
}

// ServeSCTP answers on a port of both families with name and the client's address.
// The standard library has no SCTP: a socket of the one-to-one style (RFC 6458, 4)
// is used like TCP's.
func (l *Lab) ServeSCTP(ns int, name string, port int) {
	l.T.Helper()
	fd := -1
	l.In(ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Port: port}), unix.Listen(fd, 16))
	})
	l.T.Cleanup(func() { // wakes accept, and the goroutine closes it
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	})
	go func() {
		defer unix.Close(fd)
		for {
			conn, from, err := unix.Accept(fd)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			if addr, ok := from.(*unix.SockaddrInet6); ok {
				_, _ = unix.Write(conn, []byte(name+" "+netip.AddrFrom16(addr.Addr).Unmap().String()))
			}
			unix.Close(conn)
		}
	}()
}

// AskSCTP connects from ns and returns the answer.
func (l *Lab) AskSCTP(ns int, host string, port int) (string, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "", err
	}
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
	family := unix.AF_INET6
	if addr.Is4() {
		to, family = &unix.SockaddrInet4{Port: port, Addr: addr.As4()}, unix.AF_INET
	}
	var conn *os.File
	err = netns.Do(ns, func() error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err != nil {
			return err
		}
		conn = os.NewFile(uintptr(fd), "sctp")
		// Not blocking: a signal of Go's scheduler ends a blocking connect with a
		// time limit for good (signal(7), "never restarted"), and it goes on unseen.
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return nil
	})
	if conn == nil {
		return "", err
	}
	defer conn.Close()
	if err != nil {
		return "", fmt.Errorf("cannot connect: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf) // says also that the connection was refused
	return string(buf[:n]), err
}
