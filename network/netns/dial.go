package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// loopbacks are what a port of a pod is reached by, in this order.
var loopbacks = []struct {
	family  int
	address func(port uint16) unix.Sockaddr
}{
	{unix.AF_INET, func(port uint16) unix.Sockaddr {
		return &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
	}},
	{unix.AF_INET6, func(port uint16) unix.Sockaddr {
		return &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}
	}},
}

// Dial connects to a port on the loopback of the network namespace ns, by IPv4
// and then by IPv6; nil is the namespace that we are in. Only the socket is made
// inside: no thread stays there while the connection is made or used.
func Dial(ctx context.Context, ns *os.File, port uint16) (*net.TCPConn, error) {
	var errs []error
	for _, l := range loopbacks {
		conn, err := dialOne(ctx, ns, l.family, l.address(port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("cannot connect to port %d on 127.0.0.1 or [::1] of the pod: %w", port, errors.Join(errs...))
}

func dialOne(ctx context.Context, ns *os.File, family int, to unix.Sockaddr) (*net.TCPConn, error) {
	sock, err := socketIn(ns, family)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	if err := connect(ctx, sock, to); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(sock) // a duplicate in the poller, made close-on-exec
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// socketIn makes a socket that belongs to the namespace, whoever uses it.
func socketIn(ns *os.File, family int) (*os.File, error) {
	fd := -1
	open := func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	}
	err := error(nil)
	if ns == nil {
		err = open()
	} else {
		err = Do(int(ns.Fd()), open)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// connect waits in the poller for a connection to be made (connect(2), EINPROGRESS).
func connect(ctx context.Context, sock *os.File, to unix.Sockaddr) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	began := false
	var failed error
	stop := context.AfterFunc(ctx, func() { sock.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Write(func(fd uintptr) bool {
		if !began {
			began = true
			failed = unix.Connect(int(fd), to)
			return failed != unix.EINPROGRESS
		}
		failed = connected(int(fd))
		return failed != unix.EINPROGRESS
	})
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return os.NewSyscallError("connect", failed)
}

// connected tells how a connect(2) went: an error, nil, or EINPROGRESS.
func connected(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p, 0); err != nil || n == 0 {
		return unix.EINPROGRESS
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}
