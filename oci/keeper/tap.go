package keeper

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A tap is an attached client's copy of a stream, from the moment of attaching.
type tap struct {
	pipe *os.File // write end, in the poller
}

// tapBound is how long a client that does not read holds up the container that
// it is attached to, before it is cut off.
const tapBound = 10 * time.Second

func (l *logger) addTap(stream string, pipe *os.File) {
	t := &tap{pipe}
	l.mu.Lock()
	if l.ended[stream] || stream == FDStdout && l.ended[FDTTY] {
		l.mu.Unlock()
		pipe.Close()
		return
	}
	l.taps[stream] = append(l.taps[stream], t)
	l.mu.Unlock()
	go func() {
		t.awaitReader()
		l.dropTap(stream, t)
	}()
}

// awaitReader returns when nobody has the read end any more (poll(2), POLLERR), or
// the pipe is closed here: of a silent container a client that is gone would not be
// noticed otherwise.
func (t *tap) awaitReader() {
	raw, err := t.pipe.SyscallConn()
	if err != nil {
		return
	}
	// Read, so that it does not stand in the way of who writes: the poller wakes
	// both for an error.
	_ = raw.Read(func(fd uintptr) bool { return polled(fd, unix.POLLERR) })
}

// tap copies b to every client of the stream. A client that is gone, or that
// does not read for tapBound, is dropped.
func (l *logger) tap(stream string, b []byte) {
	l.mu.Lock()
	taps := l.taps[stream]
	l.mu.Unlock()
	for _, t := range taps {
		t.pipe.SetWriteDeadline(time.Now().Add(tapBound))
		if _, err := t.pipe.Write(b); err != nil {
			l.dropTap(stream, t)
		}
	}
}

// dropTap takes a client off the list, if it is on it, and closes its pipe.
func (l *logger) dropTap(stream string, gone *tap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rest []*tap
	for _, t := range l.taps[stream] {
		if t != gone {
			rest = append(rest, t)
		}
	}
	l.taps[stream] = rest
	gone.pipe.Close()
}

// endTaps tells the clients of a stream that it has ended.
func (l *logger) endTaps(stream string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeTaps(stream)
}

func (l *logger) closeTaps(stream string) {
	for _, t := range l.taps[stream] {
		t.pipe.Close()
	}
	delete(l.taps, stream)
}

// tapFDs lists the descriptors of the clients by stream. They stay the logger's.
func (l *logger) tapFDs() map[string][]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	fds := map[string][]int{}
	for stream, taps := range l.taps {
		for _, t := range taps {
			if raw, err := t.pipe.SyscallConn(); err == nil {
				raw.Control(func(fd uintptr) { fds[stream] = append(fds[stream], int(fd)) })
			}
		}
	}
	return fds
}
