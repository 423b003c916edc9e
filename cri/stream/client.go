package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is the cause with which a request's context ends when its client has
// closed the connection.
var ErrGone = errors.New("the client is gone")

// lastBound is how long a client may take to receive the last of a session.
const lastBound = 30 * time.Second

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func noteUpgrade(c net.Conn, state http.ConnState) {
	if state == http.StateHijacked {
		c.(*client).upgraded.Store(true)
	}
}

type clientListener struct{ net.Listener }

func (l clientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &client{TCPConn: conn.(*net.TCPConn)}, nil
}

// A client is a connection as the streaming libraries get it. They wait for ever
// for a stream's answer to be sent once a write has failed, so writes do not
// fail: when the client is gone they go nowhere, and the context tells.
type client struct {
	*net.TCPConn
	lost    atomic.Pointer[context.CancelCauseFunc]
	hangup  *os.File // a duplicate that waits for the end of the client's side
	closing sync.Once

	upgraded atomic.Bool
	patience atomic.Int64 // how long one write may take, in nanoseconds; 0: as HTTP has it
}

// watch has lost called with ErrGone when the client closes its side, whether or
// not anybody reads what it sent before. unwatch ends that.
func (c *client) watch(lost context.CancelCauseFunc) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	ctl := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("cannot watch the client: %w", err)
	}
	c.hangup = os.NewFile(uintptr(fd), "client")
	c.lost.Store(&lost)
	c.patience.Store(int64(IdleTimeout))
	wait, err := c.hangup.SyscallConn()
	if err != nil {
		c.hangup.Close()
		return err
	}
	go func() {
		// The poller wakes for EPOLLRDHUP too; what has come is not read here.
		if wait.Read(hungUp) == nil {
			c.tell()
		}
	}()
	return nil
}

// unwatch also ends the connection, unless it goes on as plain HTTP.
func (c *client) unwatch() {
	c.lost.Store(nil)
	c.hangup.Close()
	if c.upgraded.Load() {
		c.Close()
	}
}

func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// expect bounds how long the client may leave a write waiting, now and later.
func (c *client) expect(bound time.Duration) {
	c.patience.Store(int64(bound))
	c.SetWriteDeadline(time.Now().Add(bound))
}

func (c *client) tell() {
	if lost := c.lost.Load(); lost != nil {
		c.expect(lingerBound)
		(*lost)(ErrGone)
	}
}

// Read tells before the library learns: what waits for it may rely on that.
func (c *client) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.tell()
	}
	return n, err
}

// Write never fails; see client.
func (c *client) Write(b []byte) (int, error) {
	if bound := c.patience.Load(); bound > 0 {
		c.SetWriteDeadline(time.Now().Add(time.Duration(bound)))
	}
	if _, err := c.TCPConn.Write(b); err != nil {
		c.tell()
	}
	return len(b), nil
}

// Close says that all has been sent and lets the client take it: closing a
// socket with unread input resets the connection, and what the client has not
// read yet, such as an exit code, is lost (RFC 1122, 4.2.2.13).
func (c *client) Close() error {
	c.closing.Do(func() {
		c.SetDeadline(time.Now().Add(lingerBound))
		if c.CloseWrite() != nil {
			c.TCPConn.Close()
			return
		}
		go func() {
			io.Copy(io.Discard, c.TCPConn)
			c.TCPConn.Close()
		}()
	})
	return nil
}

// lingerBound is how long a client may take to close its side.
const lingerBound = 5 * time.Second

// Ending bounds what is still to be sent: the session is over.
func Ending(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*client); ok {
		c.expect(lastBound)
	}
}
