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
// Output goes through a stash: a killed keeper loses no byte of it, and its
// successor writes none twice. Nothing stays in the pipe, not even an unfinished
// line: a writer that blocks in a pipe that was not empty wakes no poller
// (pipe_write in fs/pipe.c).
type logger struct {
	maxLine int
	pumps   sync.WaitGroup
	streams sync.WaitGroup // that have not ended; those of paused pumps are among them

	mu    sync.Mutex // guards what follows, and keeps a batch in one file
	file  *os.File   // nil: output is read and dropped
	drops uint64
	told  bool // that this file cannot be written
	// paused has the pumps end where they are; inputs are what they read from.
	paused bool
	last   bool // the process has ended
	inputs map[string]*os.File
	ended  map[string]bool   // by stream that has begun
	rests  map[string][]byte // unfinished lines that are in no stash, between two pumps
	tell   func(why error)
	taps   map[string][]*tap // by stream
}

func newLogger(l *Log, file *os.File) *logger {
	return &logger{maxLine: l.MaxLine, file: file, taps: map[string][]*tap{}, tell: func(error) {}, drops: l.Drops,
		inputs: map[string]*os.File{}, ended: map[string]bool{}, rests: map[string][]byte{}}
}

// wantsPump says whether a stream has none and has not ended, and ends a pause.
func (l *logger) wantsPump(stream string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
	return l.inputs[stream] == nil && !l.ended[stream]
}

// start has a stream pumped from input through s, which may be nil. Both become
// the pump's.
func (l *logger) start(stream string, input *os.File, s *stash) {
	l.mu.Lock()
	l.inputs[stream] = input
	if _, again := l.ended[stream]; !again {
		l.ended[stream] = false
		l.streams.Add(1)
	}
	l.mu.Unlock()
	l.pumps.Add(1)
	if stream == FDTTY {
		go l.pumpTTY(input)
	} else {
		go l.pumpPipe(stream, input, s)
	}
}

// unfinished takes what a pump without a stash left at a pause.
func (l *logger) unfinished(stream string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.rests[stream]
	delete(l.rests, stream)
	return rest
}

// pause has all pumps end, between one piece of output and the next.
func (l *logger) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = true
	for _, f := range l.inputs {
		f.SetReadDeadline(time.Unix(1, 0)) // whoever waits for output wakes up
	}
}

// pauses says, at an error of reading, whether the pump of a stream shall end for
// a pause, and keeps its unfinished line. If the pause is over already it goes on.
func (l *logger) pauses(stream string, err error, rest []byte) (ends, goesOn bool) {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.paused {
		l.inputs[stream].SetReadDeadline(time.Time{})
		return false, true
	}
	delete(l.inputs, stream)
	l.rests[stream] = rest
	return true, false
}

// over ends a pump at the end of its stream.
func (l *logger) over(stream string) {
	l.mu.Lock()
	delete(l.inputs, stream)
	l.ended[stream] = true
	l.mu.Unlock()
	l.streams.Done()
	if stream == FDTTY {
		stream = FDStdout
	}
	l.endTaps(stream)
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

// write appends whole lines, which stand for count bytes of what is in the stash;
// it may be nil. An error drops them: a full disk must not block the container.
func (l *logger) write(lines []byte, s *stash, count int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	if s != nil {
		if err := s.begin(l.file, len(lines), count); err != nil {
			return err
		}
	}
	l.append(lines)
	return nil
}

func (l *logger) append(lines []byte) {
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
	for stream := range l.taps {
		l.closeTaps(stream)
	}
}

// chunk is how much of a pipe is taken at once: a pipe's usual size.
const chunk = 64 << 10

// buffers is what a pump needs while it works. Waiting pumps hold none, so that
// a silent container costs no memory.
type buffers struct{ in, out []byte }

var idleBuffers = make(chan *buffers, 4)

func takeBuffers() *buffers {
	select {
	case b := <-idleBuffers:
		return b
	default:
		return &buffers{in: make([]byte, chunk)}
	}
}

func (b *buffers) give() {
	select {
	case idleBuffers <- b:
	default:
	}
}

// A pump logs one stream.
type pump struct {
	*logger
	stream string
	stash  *stash // nil: there is none, or no room for one
	rest   []byte // the unfinished line, where there is no stash
}

// pumpPipe logs what comes out of pipe, a non-blocking read end in the poller,
// until its last writer is gone. It owns pipe and s.
func (l *logger) pumpPipe(stream string, pipe *os.File, s *stash) {
	defer l.pumps.Done()
	defer pipe.Close()
	p := &pump{logger: l, stream: stream, stash: s, rest: l.unfinished(stream)}
	if s != nil {
		defer s.f.Close()
	}
	err := p.log(0, false) // what an earlier keeper left
	raw, rawErr := pipe.SyscallConn()
	err = errors.Join(err, rawErr)
	for eof := false; err == nil && !eof; {
		eof, err = p.once(raw)
		switch ends, goesOn := l.pauses(stream, err, p.rest); {
		case ends:
			return
		case goesOn:
			err = nil
		}
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		fmt.Fprintf(os.Stderr, "keeper: cannot log %s: %v\n", stream, err)
	}
	l.over(stream)
}

// once waits for output and logs what there is, up to a chunk.
func (p *pump) once(raw syscall.RawConn) (eof bool, err error) {
	ctl := raw.Read(func(fd uintptr) bool {
		// In this order: what writers that are gone had written is seen then.
		gone := polled(fd, unix.POLLHUP)
		n, e := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if e != nil {
			err = os.NewSyscallError("ioctl", e)
			return true
		}
		if n > 0 {
			err = p.drain(int(fd))
			return true
		}
		eof = gone
		return eof
	})
	if err = errors.Join(ctl, err); eof && err == nil {
		err = p.log(0, true)
	}
	return eof, err
}

// drain logs one chunk of the pipe. If there is none, another reader was faster: a
// process of the container may open its /dev/stdout for reading.
func (p *pump) drain(pipe int) error {
	if p.stash != nil {
		n, err := p.stash.fill(pipe)
		if err == nil {
			return p.log(n, false)
		}
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		p.spill(err)
	}
	b := takeBuffers()
	defer b.give()
	n, err := retry(func() (int, error) { return unix.Read(pipe, b.in[:chunk]) })
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	p.rest = append(p.rest, b.in[:n]...)
	return p.log(n, false)
}

// spill does without the stash from now on: there is no room for it, and the
// container must not wait for that.
func (p *pump) spill(why error) {
	fmt.Fprintf(os.Stderr, "keeper: %s goes to its log without a stash: %v\n", p.stream, why)
	var err error
	if p.rest, err = p.stash.unlogged(nil); err != nil {
		p.rest = nil
	}
	if err := errors.Join(err, p.stash.empty()); err != nil {
		fmt.Fprintf(os.Stderr, "keeper: cannot empty a stash: %v\n", err)
	}
	p.stash = nil
}

// log writes the lines of what came out of the pipe, and at its end the last one,
// which counts as whole without its newline. The last fresh bytes are new to those
// who are attached.
func (p *pump) log(fresh int, eof bool) (err error) {
	b := takeBuffers()
	defer b.give()
	in := p.rest
	if p.stash != nil {
		if b.in, err = p.stash.unlogged(b.in); err != nil {
			return fmt.Errorf("cannot read stash: %w", err)
		}
		in = b.in
	}
	if len(in) == 0 {
		return nil
	}
	var done int
	b.out, done = format(b.out[:0], p.stream, in, p.maxLine, eof)
	if len(b.out) > 0 {
		if err := p.write(b.out, p.stash, done); err != nil {
			p.spill(err)
			p.write(b.out, nil, 0)
		}
	}
	if fresh > 0 {
		p.tap(p.stream, in[len(in)-fresh:])
	}
	p.logged(done)
	return nil
}

// logged forgets the first n bytes of what was to be logged.
func (p *pump) logged(n int) {
	if n == 0 {
		return
	}
	if p.stash == nil {
		p.rest = append([]byte(nil), p.rest[n:]...)
	} else if err := p.stash.done(n); err != nil {
		p.spill(err)
	}
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
	line := append(make([]byte, 0, l.maxLine+1), l.unfinished(FDTTY)...)
	in := make([]byte, 4096)
	var out []byte
	for {
		n, err := master.Read(in)
		switch ends, goesOn := l.pauses(FDTTY, err, line); {
		case ends:
			return
		case goesOn:
			continue
		}
		l.tap("stdout", in[:n])
		line = append(line, in[:n]...)
		var done int
		// EIO is how a terminal whose other side is closed says so (ioctl_tty(2)).
		out, done = format(out[:0], "stdout", line, l.maxLine, err != nil)
		line = append(line[:0], line[done:]...)
		if len(out) > 0 {
			l.write(out, nil, 0)
		}
		if err != nil && !(errors.Is(err, unix.EIO) && l.opensAgain(master)) {
			l.over(FDTTY)
			return
		}
	}
}

// opensAgain waits, while nobody has a terminal's other side open, for who does and
// writes to it, or for a pause; false: the process has ended.
func (l *logger) opensAgain(master *os.File) (yes bool) {
	raw, err := master.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		l.mu.Lock()
		yes = !l.last
		l.mu.Unlock()
		return !yes || polled(fd, unix.POLLIN)
	})
	return yes && (err == nil || errors.Is(err, os.ErrDeadlineExceeded))
}

// exited has the pump of a terminal wait no longer for who opens it.
func (l *logger) exited() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = true
	if tty := l.inputs[FDTTY]; tty != nil {
		tty.SetReadDeadline(time.Unix(1, 0))
	}
}
