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
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepTaps(stream)
	l.taps[stream] = append(l.taps[stream], &tap{pipe})
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

// sweepTaps drops clients that are gone. Of a silent container that would not be
// noticed otherwise.
func (l *logger) sweepTaps(stream string) {
	var rest []*tap // a new list: the old one may be being written to
	for _, t := range l.taps[stream] {
		if t.readerGone() {
			t.pipe.Close()
		} else {
			rest = append(rest, t)
		}
	}
	l.taps[stream] = rest
}

// readerGone says whether nobody has the read end any more (poll(2), POLLERR).
func (t *tap) readerGone() (gone bool) {
	raw, err := t.pipe.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) { gone = polled(fd, unix.POLLERR) })
	return gone || err != nil
}

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
