package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrKeeperLost is returned by a request that was under way when the keeper
// died. Its effect is unknown; a new keeper is up soon.
var ErrKeeperLost = errors.New("the keeper died meanwhile")

// ErrSpawnerLost is returned by a spawn whose spawner died. What it had made was
// ended.
var ErrSpawnerLost = errors.New("the spawner died meanwhile")

// Lost tells whether an error says that a process died which has a successor:
// what was asked for can be asked for again.
func Lost(err error) bool { return errors.Is(err, ErrKeeperLost) || errors.Is(err, ErrSpawnerLost) }

// A Client is the daemon's side: it finds or starts the keeper, asks it, and
// holds a duplicate of every descriptor that the keeper keeps (double custody).
// When the keeper dies, the client starts another and hands all of them over.
type Client struct {
	cfg Config

	mu     sync.Mutex
	link   *link
	items  map[string]*Kept
	onExit func(Item)
	early  []Item // exits before Notify
	// replaced is closed, and made anew, when link changes.
	replaced chan struct{}

	starts  atomic.Uint64 // of keepers
	closing chan struct{}
	done    sync.WaitGroup
}

// Config says where the keeper is and how it is started.
type Config struct {
	// Socket is the path of its socket, at most 107 bytes.
	Socket string
	// LogPath is the file that takes what keeper and spawners say.
	LogPath string
	// Binary returns the path of the binary to start it from; it is called
	// whenever one has to be started.
	Binary func() (string, error)
	// Build names that binary: a keeper of another build is upgraded in place. ""
	// leaves the keeper what it is.
	Build string
	// Renewed is called, if not nil, once the keeper is of that build: no process
	// needs the binary of another any more.
	Renewed func()
	// Group is the control group that a keeper is started in, nil for the daemon's.
	Group *os.File
	// Store holds everything a third time, nil if there is none. Stored is what it
	// gave back at the daemon's start, by name; Dial takes the files.
	Store  Store
	Stored map[string]*os.File
	// MaxLine is the Log.MaxLine of what comes back from the store.
	MaxLine int
}

// Kept is an item with the daemon's own duplicates of its descriptors, by name.
type Kept struct {
	Item
	FDs map[string]*os.File
}

// Dial connects to the keeper, starting one if there is none, and takes
// duplicates of everything it keeps.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, items: map[string]*Kept{}, replaced: make(chan struct{}), closing: make(chan struct{})}
	l, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.takeAll(ctx, l); err != nil && !errors.Is(err, ErrKeeperLost) {
		l.close()
		return nil, err
	}
	c.link = l
	c.done.Add(1)
	go c.watch(l)
	// One that died meanwhile is replaced, and the next gets what it had told.
	if _, err := c.live(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if cfg.Store != nil {
		c.recall(ctx)
	}
	c.done.Add(1)
	go c.renew()
	return c, nil
}

// connect greets the keeper; where nobody answers it starts one. A keeper that
// is being killed may still accept: what counts is its answer.
func (c *Client) connect(ctx context.Context) (*link, error) {
	l, err := c.greet(ctx, greetBound)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, errHung):
		if err := killKeeper(l.pid); err != nil {
			return nil, err
		}
	case !nobodyThere(err): // a second one would take the first one's name away
		return nil, err
	}
	if err := launch(c.cfg); err != nil {
		return nil, err
	}
	c.starts.Add(1)
	if l, err = c.greet(ctx, beginBound); err != nil {
		return nil, fmt.Errorf("cannot reach the keeper just started (see %s): %w", c.cfg.LogPath, err)
	}
	return l, nil
}

// nobodyThere tells whether an error says that no keeper lives.
func nobodyThere(err error) bool {
	return errors.Is(err, ErrKeeperLost) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// greet connects and says hello. The link comes also with errHung, ended.
func (c *Client) greet(ctx context.Context, bound time.Duration) (*link, error) {
	fd, err := dial(c.cfg.Socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bound, errHung)
	defer cancel()
	pid := peerPID(fd)
	l, err := newLink(fd, c.exited)
	if err != nil {
		return nil, fmt.Errorf("cannot greet the keeper: %w", err)
	}
	l.pid = pid
	hello, _, err := l.answer(ctx, &message{Verb: verbHello, Version: Version}, nil)
	if err != nil {
		l.close()
		return l, fmt.Errorf("cannot greet the keeper: %w", err)
	}
	l.pid, l.build, l.version = hello.PID, hello.Build, hello.Version
	return l, nil
}

func dial(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot connect to %s: %w", path, err)
	}
	return fd, nil
}

// takeAll fills the client's own custody from the keeper's. ErrKeeperLost says
// that there may have been more.
func (c *Client) takeAll(ctx context.Context, l *link) error {
	within, cancel := context.WithTimeoutCause(ctx, listBound, errHung)
	defer cancel()
	err := l.stream(within, &message{Verb: verbList}, c.take)
	if !errors.Is(err, errHung) || ctx.Err() != nil {
		return err
	}
	slog.Error("the keeper is killed, for it does not tell what it keeps", "pid", l.pid, "within", listBound)
	if err := killKeeper(l.pid); err != nil {
		return err
	}
	return ErrKeeperLost
}

// take takes one item of the list; exits may come beside it.
func (c *Client) take(m *message, fds []int) {
	if len(fds) != len(m.Item.Names) {
		closeAll(fds)
		return
	}
	c.mu.Lock()
	c.items[m.Item.ID] = &Kept{Item: *m.Item, FDs: files(m.Item.Names, fds)}
	c.mu.Unlock()
	if log := m.Item.Log; log != nil && log.Drops > 0 {
		warnUnwritable(m.Item.ID, fmt.Sprintf("%d bytes could not be written so far", log.Drops))
	}
}

func files(names []string, fds []int) map[string]*os.File {
	out := make(map[string]*os.File, len(names))
	for i, name := range names {
		out[name] = os.NewFile(uintptr(fds[i]), name)
	}
	return out
}

// watch replaces the keeper when it dies.
func (c *Client) watch(l *link) {
	defer c.done.Done()
	for {
		select {
		case <-c.closing:
			return
		case <-l.dead:
		}
		select {
		case <-c.closing:
			return
		default:
		}
		slog.Warn("keeper died, starting another", "pid", l.pid)
		next, err := c.replace()
		if err != nil {
			slog.Error("cannot replace the keeper", "err", err)
			select {
			case <-c.closing:
				return
			case <-time.After(time.Second): // the machine is out of something: try again
			}
			continue
		}
		l = next
	}
}

// replace starts a keeper and hands it everything in the client's custody.
func (c *Client) replace() (*link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	handed := map[string]bool{}
	for {
		rest := c.beyond(handed, l)
		if rest == nil {
			return l, nil
		}
		for _, id := range rest {
			handed[id] = true
			if err := c.adopt(ctx, l, id); err != nil {
				slog.Error("cannot hand over to the new keeper", "id", id, "err", err)
			}
		}
	}
}

// beyond lists the items that are not in handed. When there are none, l becomes
// the link.
func (c *Client) beyond(handed map[string]bool, l *link) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id := range c.items {
		if !handed[id] {
			ids = append(ids, id)
		}
	}
	if ids == nil {
		c.link = l
		close(c.replaced)
		c.replaced = make(chan struct{})
	}
	return ids
}

// adopt hands one item to the keeper at l. It sends duplicates, since the item
// may be released meanwhile; then it is released there as well.
func (c *Client) adopt(ctx context.Context, l *link, id string) error {
	c.mu.Lock()
	k := c.items[id]
	if k == nil || (k.Kind != KindPod && k.PID == 0) { // gone, or being spawned
		c.mu.Unlock()
		return nil
	}
	item := k.Item
	item.Names = nil
	var fds []int
	for name, f := range k.FDs {
		fd, err := dup(int(f.Fd()))
		if err != nil {
			c.mu.Unlock()
			closeAll(fds)
			return err
		}
		item.Names, fds = append(item.Names, name), append(fds, fd)
	}
	c.mu.Unlock()
	defer closeAll(fds)
	if _, _, err := l.ask(ctx, &message{Verb: verbAdopt, Item: &item}, fds); err != nil {
		return err
	}
	c.mu.Lock()
	gone := c.items[id] != k
	c.mu.Unlock()
	if gone {
		_, _, err := l.ask(ctx, &message{Verb: verbRelease, Item: &item}, nil)
		return err
	}
	return nil
}

func (c *Client) exited(item Item) {
	c.mu.Lock()
	if k := c.items[item.ID]; k != nil && (k.PID == 0 || k.PID == item.PID) { // else of an earlier start
		k.Exit = item.Exit
		if k.Kind == KindExec {
			delete(c.items, item.ID)
			k.close()
		}
	}
	f := c.onExit
	if f == nil {
		c.early = append(c.early, item)
	}
	c.mu.Unlock()
	if f != nil {
		f(item)
	}
}

// Notify has f called with each item that has exited, Exit set, and with those
// of before. f must not block.
func (c *Client) Notify(f func(Item)) {
	c.mu.Lock()
	early := c.early
	c.early, c.onExit = nil, f
	c.mu.Unlock()
	for _, item := range early {
		f(item)
	}
}

func (k *Kept) close() {
	for _, f := range k.FDs {
		f.Close()
	}
}

// current is the link of the moment; a request on a dead one fails at once.
func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// nextBound is how long a request waits for the next keeper, which is usually
// there within 100 ms.
const nextBound = 15 * time.Second

// errNoNext is the keeper's doing, not a deadline of the client's: it may try again.
var errNoNext = fmt.Errorf("it takes longer than %v", nextBound)

// live waits until there is a link to a keeper that lives, if one died.
func (c *Client) live(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nextBound, errNoNext)
	defer cancel()
	for {
		c.mu.Lock()
		l, replaced := c.link, c.replaced
		c.mu.Unlock()
		select {
		case <-l.dead:
		default:
			return l, nil
		}
		select {
		case <-replaced:
		case <-c.closing:
			return nil, ErrKeeperLost
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, and no other one is up yet: %w", ErrKeeperLost, context.Cause(ctx))
		}
	}
}

// ask asks the keeper that lives. What can be asked twice is asked again when
// the keeper dies meanwhile.
func (c *Client) ask(ctx context.Context, m *message, fds []int) (*message, []int, error) {
	for {
		l, err := c.live(ctx)
		if err != nil {
			return nil, nil, err
		}
		reply, got, err := l.ask(ctx, m, fds)
		if !errors.Is(err, ErrKeeperLost) || m.Verb == verbSpawn {
			return reply, got, err
		}
	}
}

// Starts counts the keepers that this client had to start.
func (c *Client) Starts() uint64 { return c.starts.Load() }

// PID is the keeper's process id.
func (c *Client) PID() int { return c.current().pid }

// Items returns what is kept, as it stands. The descriptors stay the client's.
func (c *Client) Items() []Kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Kept, 0, len(c.items))
	for _, k := range c.items {
		out = append(out, *k)
	}
	return out
}

// FD duplicates a kept descriptor; the duplicate is the caller's.
func (c *Client) FD(id, name string) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.items[id]
	if k == nil || k.FDs[name] == nil {
		return nil, fmt.Errorf("cannot use %s of %s: it is not kept", name, id)
	}
	fd, err := dup(int(k.FDs[name].Fd()))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// StopKeeper ends the keeper if it keeps nothing, and the client.
func (c *Client) StopKeeper(ctx context.Context) error {
	close(c.closing)
	_, _, err := c.current().ask(ctx, &message{Verb: verbStop}, nil)
	c.current().close()
	c.done.Wait()
	return err
}

// Close leaves the keeper to itself.
func (c *Client) Close() {
	close(c.closing)
	c.current().close()
	c.done.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.items {
		k.close()
	}
}
