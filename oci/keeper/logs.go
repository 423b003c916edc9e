package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A logger writes one container's output to its log file, in the CRI's form:
//
//	RFC3339Nano SP {stdout,stderr} SP {P,F} SP content LF
//
// A line is tee'd, written, and only then consumed: what a killed keeper had not
// written is still in the pipe. An unfinished line stays in the pipe as well, so
// there is no buffer to lose.
type logger struct {
	maxLine int
	pumps   sync.WaitGroup

	mu    sync.Mutex // guards what follows, and keeps a batch in one file
	file  *os.File   // nil: output is read and dropped
	drops uint64
	taps  map[string][]*tap // by stream
}

func newLogger(l *Log, file *os.File) *logger {
	return &logger{maxLine: l.MaxLine, file: file, taps: map[string][]*tap{}}
}

// reopen makes file the log; it returns when nothing more goes to the old one.
func (l *logger) reopen(file *os.File) {
	l.mu.Lock()
	old := l.file
	l.file = file
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// write appends whole lines. A write error drops them: a full disk must not
// block the container.
func (l *logger) write(lines []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if n, err := l.file.Write(lines); err != nil {
		l.drops += uint64(len(lines) - n)
	}
}

func (l *logger) dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drops
}

func (l *logger) close() {
	l.reopen(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	for stream := range l.taps {
		l.closeTaps(stream)
	}
}

// chunk is how much of a pipe is taken at once: a pipe's usual size.
const chunk = 64 << 10

// buffers is what a pump needs while it works. Waiting pumps hold none, so that
// a silent container costs no memory.
type buffers struct {
	in, out []byte
	r, w    int // scratch pipe that tee(2) fills
}

var idleBuffers = make(chan *buffers, 4)

func takeBuffers() (*buffers, error) {
	select {
	case b := <-idleBuffers:
		return b, nil
	default:
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	return &buffers{in: make([]byte, chunk), r: p[0], w: p[1]}, nil
}

func (b *buffers) give() {
	select {
	case idleBuffers <- b:
	default:
		unix.Close(b.r)
		unix.Close(b.w)
	}
}

// devNull swallows what has been written to a log.
var devNull = sync.OnceValues(func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_WRONLY, 0) })

// pumpPipe logs what comes out of pipe, a non-blocking read end in the poller,
// until its last writer is gone. It owns pipe.
func (l *logger) pumpPipe(stream string, pipe *os.File) {
	defer l.pumps.Done()
	defer pipe.Close()
	defer l.endTaps(stream)
	raw, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	held := 0 // bytes of an unfinished line, still in the pipe
	for {
		consumed, left, eof, err := l.pumpOnce(stream, raw, held)
		if err != nil || (eof && left == 0 && consumed == 0) {
			return
		}
		held = left
	}
}

// pumpOnce waits for more than held bytes, logs what is whole, consumes it, and
// returns how much it consumed and left.
func (l *logger) pumpOnce(stream string, raw syscall.RawConn, held int) (consumed, left int, eof bool, err error) {
	ctl := raw.Read(func(fd uintptr) bool {
		n, ioctlErr := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if ioctlErr != nil {
			err = ioctlErr
			return true
		}
		if n <= held {
			eof = polled(fd, unix.POLLHUP)
			if !eof || n == 0 {
				return eof
			}
		}
		consumed, left, err = l.drain(stream, int(fd), eof)
		return true
	})
	return consumed, left, eof, errors.Join(ctl, err)
}

// drain logs one chunk of the pipe. At the end (eof) the last line counts as
// whole without its newline.
func (l *logger) drain(stream string, pipe int, eof bool) (consumed, left int, err error) {
	b, err := takeBuffers()
	if err != nil {
		return 0, 0, err
	}
	defer b.give()
	n, err := unix.Tee(pipe, b.w, chunk, unix.SPLICE_F_NONBLOCK)
	if err != nil {
		return 0, 0, os.NewSyscallError("tee", err)
	}
	for got := 0; got < int(n); {
		k, err := unix.Read(b.r, b.in[got:n])
		if err != nil {
			return 0, 0, os.NewSyscallError("read", err)
		}
		got += k
	}
	b.out, consumed = format(b.out[:0], stream, b.in[:n], l.maxLine, eof)
	if consumed == 0 {
		return 0, int(n), nil
	}
	l.write(b.out)
	l.tap(stream, b.in[:consumed])
	return consumed, int(n) - consumed, consume(pipe, consumed)
}

// consume takes n bytes that are known to be there out of the pipe.
func consume(pipe, n int) error {
	null, err := devNull()
	if err != nil {
		return err
	}
	for n > 0 {
		k, err := unix.Splice(pipe, nil, int(null.Fd()), nil, n, unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return fmt.Errorf("cannot consume %d bytes of output: %w", n, err)
		}
		n -= int(k)
	}
	return nil
}

// format appends the log lines of in to out and returns how much of in they
// cover. A line longer than maxLine goes out in parts.
func format(out []byte, stream string, in []byte, maxLine int, eof bool) ([]byte, int) {
	stamp := time.Now().UTC().AppendFormat(make([]byte, 0, 40), time.RFC3339Nano)
	done := 0
	for done < len(in) {
		rest := in[done:]
		end := bytes.IndexByte(rest[:min(len(rest), maxLine+1)], '\n')
		switch {
		case end >= 0:
			out = appendLine(out, stamp, stream, 'F', rest[:end])
			done += end + 1
		case len(rest) > maxLine:
			out = appendLine(out, stamp, stream, 'P', rest[:maxLine])
			done += maxLine
		case eof:
			out = appendLine(out, stamp, stream, 'F', rest)
			done = len(in)
		default:
			return out, done
		}
	}
	return out, done
}

func appendLine(out, stamp []byte, stream string, tag byte, content []byte) []byte {
	out = append(append(out, stamp...), ' ')
	out = append(append(out, stream...), ' ', tag, ' ')
	return append(append(out, content...), '\n')
}

// pumpTTY logs what comes out of a terminal. A terminal cannot be tee'd: what a
// killed keeper had read is in its log or lost.
func (l *logger) pumpTTY(master *os.File) {
	defer l.pumps.Done()
	defer master.Close()
	defer l.endTaps("stdout")
	line := make([]byte, 0, l.maxLine+1)
	in := make([]byte, 4096)
	var out []byte
	for {
		n, err := master.Read(in)
		l.tap("stdout", in[:n])
		line = append(line, in[:n]...)
		var done int
		// EIO is how a terminal whose other side is closed says so (ioctl_tty(2)).
		out, done = format(out[:0], "stdout", line, l.maxLine, err != nil)
		line = append(line[:0], line[done:]...)
		if len(out) > 0 {
			l.write(out)
		}
		if err != nil {
			return
		}
	}
}
