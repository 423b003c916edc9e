package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"
)

// A link is one connection to a keeper: requests go out under a lock, one
// goroutine reads replies and exits.
type link struct {
	fd   int
	dead chan struct{} // closed when the keeper is gone
	// What it said when it was greeted.
	pid     int
	build   string
	version int

	sendMu sync.Mutex // a message's parts stay together

	mu      sync.Mutex
	seq     uint64
	pending map[uint64]*asker
}

// An asker takes the answers to one request, until gone.
type asker struct {
	answers chan answer
	gone    chan struct{}
}

type answer struct {
	m   *message
	fds []int
}

// newLink takes over fd. onExit is called for each process that ended.
func newLink(fd int, onExit func(Item)) (*link, error) {
	c, err := newConn(fd, maxMessage, maxRights)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	l := &link{fd: fd, dead: make(chan struct{}), pending: map[uint64]*asker{}}
	go l.read(c, onExit)
	return l, nil
}

// read runs until the connection ends, and closes it.
func (l *link) read(c *conn, onExit func(Item)) {
	defer c.close()
	for {
		m, fds, err := c.receive()
		if err != nil {
			close(l.dead)
			l.sendMu.Lock()
			unix.Close(l.fd)
			l.fd = -1
			l.sendMu.Unlock()
			return
		}
		if m.Verb == verbExit {
			closeAll(fds)
			onExit(*m.Item)
			continue
		}
		if m.Verb == verbFull {
			closeAll(fds)
			warnUnwritable(m.Item.ID, m.Err)
			continue
		}
		l.mu.Lock()
		w := l.pending[m.Seq]
		l.mu.Unlock()
		if w == nil {
			closeAll(fds) // nobody waits any more
			continue
		}
		select {
		case w.answers <- answer{m, fds}:
		case <-w.gone:
			closeAll(fds)
		}
	}
}

// warnUnwritable tells once, until the log is reopened, that lines are dropped.
func warnUnwritable(id, why string) {
	slog.Warn("cannot write a container's log; what it says is dropped until it can be written again", "id", id, "err", why)
}

// close makes the reader end.
func (l *link) close() {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if l.fd >= 0 {
		unix.Shutdown(l.fd, unix.SHUT_RDWR)
	}
}

// begin sends a request and returns where its answers come.
func (l *link) begin(m *message, fds []int, room int) (chan answer, func(), error) {
	w := &asker{make(chan answer, room), make(chan struct{})}
	l.mu.Lock()
	l.seq++
	m.Seq = l.seq
	l.pending[m.Seq] = w
	l.mu.Unlock()
	end := func() {
		l.mu.Lock()
		delete(l.pending, m.Seq)
		l.mu.Unlock()
		close(w.gone)
	}
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if l.fd < 0 {
		end()
		return nil, nil, ErrKeeperLost
	}
	if err := sendWithin(answerBound, l.fd, m, fds); err != nil {
		end()
		if errors.Is(err, errHung) {
			unix.Shutdown(l.fd, unix.SHUT_RDWR)
		}
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			err = ErrKeeperLost
		}
		return nil, nil, err
	}
	return w.answers, end, nil
}

// answer sends a request and waits for its one answer, whose descriptors become the
// caller's. When ctx ends first, the answer is dropped when it comes.
func (l *link) answer(ctx context.Context, m *message, fds []int) (*message, []int, error) {
	ch, end, err := l.begin(m, fds, 1)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	if m.sent != nil {
		m.sent()
	}
	select {
	case a := <-ch:
		return a.result()
	case <-l.dead:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	select {
	case a := <-ch: // its last words
		return a.result()
	default:
		return nil, nil, ErrKeeperLost
	}
}

func (a answer) result() (*message, []int, error) {
	if a.m.Lost {
		return a.m, a.fds, fmt.Errorf("%w: %s", ErrSpawnerLost, a.m.Err)
	}
	if a.m.Err != "" {
		return a.m, a.fds, errors.New(a.m.Err)
	}
	return a.m, a.fds, nil
}

// stream sends a request and calls f with each answer until the last, which
// has no item.
func (l *link) stream(ctx context.Context, m *message, f func(*message, []int)) error {
	ch, end, err := l.begin(m, nil, 64)
	if err != nil {
		return err
	}
	defer end()
	for {
		select {
		case a := <-ch:
			if a.m.Item == nil {
				return nil
			}
			f(a.m, a.fds)
		case <-l.dead:
			return lastWords(ch, f)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lastWords takes what came before the keeper's end.
func lastWords(ch chan answer, f func(*message, []int)) error {
	for {
		select {
		case a := <-ch:
			if a.m.Item == nil {
				return nil
			}
			f(a.m, a.fds)
		default:
			return ErrKeeperLost
		}
	}
}
