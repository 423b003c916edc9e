package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// IO is a client's side of an exec or attach. What is nil is not connected.
type IO struct {
	Stdin io.Reader
	// Stdout takes both outputs with TTY. Writes that fail are not repeated: when
	// the client is gone the call's context ends.
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize, if set, returns the next size of the client's terminal; false:
	// there will be none.
	Resize func() (Size, bool)
	// Ending, if set, is called when there is only the rest of the output to send.
	Ending func()
}

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }

// resize gives a terminal the client's sizes, until there are no more.
func (c IO) resize(master *os.File) {
	if c.Resize == nil {
		return
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return
	}
	for size, ok := c.Resize(); ok; size, ok = c.Resize() {
		if size.Width == 0 || size.Height == 0 {
			continue // a client that knows none
		}
		err := raw.Control(func(fd uintptr) {
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		})
		if err != nil {
			return // closed
		}
	}
}

// A follower passes on one output in the background.
type follower struct {
	f    *os.File
	put  func([]byte)
	done chan struct{}
}

// follow calls put with what comes out of f, in the poller, until its end.
func follow(f *os.File, put func([]byte)) *follower {
	r := &follower{f: f, put: put, done: make(chan struct{})}
	go r.read()
	return r
}

func (r *follower) read() {
	defer close(r.done)
	chunk := make([]byte, 512) // a probe says little
	for {
		n, err := r.f.Read(chunk)
		if n > 0 {
			r.put(chunk[:n])
		}
		if err != nil {
			return
		}
		if n == len(chunk) && n < 32<<10 {
			chunk = make([]byte, 8*n)
		}
	}
}

// finish passes on what has been written so far: it takes what is in the pipe
// and does not wait for writers that live on.
func (r *follower) finish(ctx context.Context) {
	r.f.SetReadDeadline(time.Now())
	select {
	case <-r.done:
	case <-ctx.Done():
		return
	}
	r.f.SetReadDeadline(time.Time{})
	raw, err := r.f.SyscallConn()
	if err != nil {
		return
	}
	// Whoever goes on writing, what was there at the end is all that counts.
	left := 0
	raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	for left > 0 {
		chunk, n := make([]byte, min(left, 32<<10)), 0
		err := raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), chunk)
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		r.put(chunk[:n])
		left -= n
	}
}

// hangupBound is how long the rest of a terminal's output may take to come out
// after its first process has ended: the kernel moves it in the background, and a
// child in the background may hold the terminal for ever.
const hangupBound = 2 * time.Second

// finishTTY passes on the rest of a terminal's output.
func (r *follower) finishTTY(ctx context.Context) {
	r.f.SetReadDeadline(time.Now().Add(hangupBound))
	select {
	case <-r.done: // EIO: nobody has the other side any more
	case <-ctx.Done():
	}
}

// copyIn passes on what the client sends. The error is the receiver's.
func copyIn(to io.Writer, from io.Reader) error {
	_, err := io.Copy(onlyWriter{to}, onlyReader{from})
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EIO) {
		return nil // it has ended
	}
	return err
}

// These keep io.Copy from asking a stream for more than Read and Write.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// endOfInput is what a terminal takes for the end of its input (termios(3), VEOF).
var endOfInput = []byte{4}
