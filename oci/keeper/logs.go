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
// Output is tee'd, written, and only then consumed: what a killed keeper had not
// written is still in the pipe. An unfinished line goes to the stash, which both
// keeper and daemon hold. It cannot stay in the pipe: a writer that blocks in a
// pipe that was not empty wakes no poller (pipe_write in fs/pipe.c).
type logger struct {
	maxLine int
	stash   *os.File // memory (memfd), nil: an unfinished line dies with the keeper
	pumps   sync.WaitGroup

	mu    sync.Mutex // guards what follows, and keeps a batch in one file
	file  *os.File   // nil: output is read and dropped
	drops uint64
	told  bool // that this file cannot be written
	tell  func(why error)
	taps  map[string][]*tap // by stream
}

func newLogger(l *Log, file, stash *os.File) *logger {
	return &logger{maxLine: l.MaxLine, file: file, stash: stash, taps: map[string][]*tap{}, tell: func(error) {}}
}

// reopen makes file the log; it returns when nothing more goes to the old one.
func (l *logger) reopen(file *os.File) {
	l.mu.Lock()
	old := l.file
	l.file, l.told = file, false
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
	n, err := l.file.Write(lines)
	if err == nil {
		return
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if whole < n {
		l.cut(n - whole)
	}
	l.drops += uint64(len(lines) - whole)
	if !l.told {
		l.told = true
		l.tell(err)
	}
}

// cut takes the beginning of a line off the end of the file, or the next line
// would go on where it ends.
func (l *logger) cut(n int) {
	if st, err := l.file.Stat(); err == nil {
		l.file.Truncate(st.Size() - int64(n))
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
	if l.stash != nil {
		l.stash.Close()
	}
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
		b.drop()
	}
}

func (b *buffers) drop() {
	unix.Close(b.r)
	unix.Close(b.w)
}

// devNull swallows what has been written to a log.
var devNull = sync.OnceValues(func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_WRONLY, 0) })

// A pump logs one stream.
type pump struct {
	*logger
	stream  string
	partial []byte // the unfinished line, as in the stash
}

// pumpPipe logs what comes out of pipe, a non-blocking read end in the poller,
// until its last writer is gone. It owns pipe.
func (l *logger) pumpPipe(stream string, pipe *os.File) {
	defer l.pumps.Done()
	defer pipe.Close()
	defer l.endTaps(stream)
	p := &pump{logger: l, stream: stream, partial: l.unstash(stream)}
	raw, err := pipe.SyscallConn()
	for eof := false; err == nil && !eof; {
		eof, err = p.once(raw)
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		fmt.Fprintf(os.Stderr, "keeper: cannot log %s: %v\n", stream, err)
	}
}

// once waits for output and logs what there is, up to a chunk.
func (p *pump) once(raw syscall.RawConn) (eof bool, err error) {
	ctl := raw.Read(func(fd uintptr) bool {
		n, e := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if e != nil {
			err = os.NewSyscallError("ioctl", e)
			return true
		}
		if n > 0 {
			err = p.drain(int(fd))
			return true
		}
		eof = polled(fd, unix.POLLHUP)
		return eof
	})
	if err = errors.Join(ctl, err); eof && err == nil {
		p.flush()
	}
	return eof, err
}

// flush logs the last line, which counts as whole without its newline.
func (p *pump) flush() {
	if len(p.partial) > 0 {
		out, _ := format(nil, p.stream, p.partial, p.maxLine, true)
		p.write(out)
		p.setPartial(nil)
	}
}

// drain logs one chunk of the pipe.
func (p *pump) drain(pipe int) error {
	b, err := takeBuffers()
	if err != nil {
		return err
	}
	n, err := b.fill(pipe)
	if err != nil {
		b.drop() // what is left in the scratch pipe must not come out later
		return err
	}
	defer b.give()
	in := b.in[:n]
	if len(p.partial) > 0 {
		in = append(p.partial, in...)
	}
	var done int
	b.out, done = format(b.out[:0], p.stream, in, p.maxLine, false)
	if len(b.out) > 0 {
		p.write(b.out)
	}
	p.setPartial(in[done:])
	p.tap(p.stream, b.in[:n])
	return consume(pipe, n)
}

// setPartial makes b the unfinished line, here and in the stash.
func (p *pump) setPartial(b []byte) {
	if len(b) == 0 && len(p.partial) == 0 {
		return
	}
	if len(b) == 0 {
		p.partial = nil
	} else {
		p.partial = append(make([]byte, 0, len(b)), b...)
	}
	p.restash(p.stream, p.partial)
}

// fill copies what the pipe holds into b.in and leaves the pipe as it is.
func (b *buffers) fill(pipe int) (int, error) {
	n, err := retry(func() (int, error) {
		n, err := unix.Tee(pipe, b.w, chunk, unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err != nil {
		return 0, os.NewSyscallError("tee", err)
	}
	for got := 0; got < n; {
		k, err := retry(func() (int, error) { return unix.Read(b.r, b.in[got:n]) })
		if err != nil {
			return 0, os.NewSyscallError("read", err)
		}
		got += k
	}
	return n, nil
}

// retry repeats a call that a signal interrupted: Go's scheduler sends them.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// consume takes n bytes that are known to be there out of the pipe.
func consume(pipe, n int) error {
	null, err := devNull()
	if err != nil {
		return err
	}
	for n > 0 {
		k, err := retry(func() (int, error) {
			k, err := unix.Splice(pipe, nil, int(null.Fd()), nil, n, unix.SPLICE_F_NONBLOCK)
			return int(k), err
		})
		if err != nil || k == 0 {
			return fmt.Errorf("cannot consume %d bytes of output: %w", n, err)
		}
		n -= k
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
