package cri

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Listen listens on a unix socket that only our own user may use: its mode is
// 0600, and every peer's credentials are checked.
func Listen(path string) (net.Listener, error) {
	if err := removeSocket(path); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return ownUserOnly{l}, nil
}

// removeSocket removes what a daemon before this one left, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("what is there is no socket, and stays")
	}
	return os.Remove(path)
}

type ownUserOnly struct{ net.Listener }

// Accept implements net.Listener; it drops peers of other users.
func (l ownUserOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := checkPeer(conn); err != nil {
			slog.Warn("connection refused", "socket", l.Addr().String(), "err", err)
			conn.Close()
			continue
		}
		return conn, nil
	}
}

func checkPeer(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("it is no unix connection")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil || err != nil {
		return errors.Join(ctl, err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("peer is user %d, not %d", cred.Uid, os.Geteuid())
	}
	return nil
}
