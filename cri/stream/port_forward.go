package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Forward carries one connection: it copies between stream and a port until both
// sides have ended, either has failed, or ctx ends.
type Forward func(ctx context.Context, port uint16, stream io.ReadWriteCloser) error

// ServePortForward serves a port-forward session. By SPDY, also inside a
// WebSocket, it has any number of connections to any ports, by WebSocket's own
// channels one to each of ports.
//
// The SPDY side of cri-streaming is not used: after the client is gone it can leave
// goroutines behind that hand over streams to nobody, and its forwards cannot
// learn that the session has ended.
func ServePortForward(w http.ResponseWriter, r *http.Request, ports []int32, forward Forward) {
	f := &forwards{forward: forward, streams: make(chan httpstream.Stream), pairs: map[string]*pair{}}
	if wantsTunnel(r) {
		serveTunnel(w, r, f)
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		portforward.ServePortForward(w, r, webSocket{r.Context(), forward}, "", "", &portforward.V4Options{Ports: ports},
			IdleTimeout, CreationTimeout, portforward.SupportedProtocols)
		return
	}
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return // the client has been told
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	f.conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, f.receiver(ctx))
	if f.conn == nil {
		cancel(nil)
		return
	}
	f.conn.SetIdleTimeout(IdleTimeout)
	f.run(ctx, cancel)
}

// Timeouts of every session.
const (
	IdleTimeout     = 4 * time.Hour
	CreationTimeout = 30 * time.Second
)

// webSocket is a portforward.PortForwarder that knows the session's context.
type webSocket struct {
	ctx     context.Context
	forward Forward
}

func (f webSocket) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	return f.forward(f.ctx, uint16(port), stream)
}

// forwards is one SPDY connection: pairs of streams, one for data and one for an
// error's text, which find each other by a request id.
type forwards struct {
	forward Forward
	conn    httpstream.Connection
	streams chan httpstream.Stream
	pairs   map[string]*pair
	running sync.WaitGroup
}

type pair struct {
	id          string
	data, fault httpstream.Stream
	timer       *time.Timer
}

func (f *forwards) receiver(ctx context.Context) httpstream.NewStreamHandler {
	return func(s httpstream.Stream, replied <-chan struct{}) error { return f.receive(ctx, s, replied) }
}

// receive is called by the library for each stream that the client makes. It
// must not block once the session is over.
func (f *forwards) receive(ctx context.Context, s httpstream.Stream, replied <-chan struct{}) error {
	if _, err := portOf(s); err != nil {
		return err
	}
	switch kind := s.Headers().Get(portforward.StreamType); kind {
	case portforward.StreamTypeData, portforward.StreamTypeError:
	default:
		return fmt.Errorf("header %s is %q; it can be data or error", portforward.StreamType, kind)
	}
	go func() {
		select {
		case <-replied: // from here on it is registered, and can be written to
		case <-ctx.Done():
			return
		}
		select {
		case f.streams <- s:
		case <-ctx.Done():
		}
	}()
	return nil
}

func portOf(s httpstream.Stream) (uint16, error) {
	text := s.Headers().Get(portforward.PortHeader)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("header %s is %q; it has to be a port, 1 to 65535", portforward.PortHeader, text)
	}
	return uint16(port), nil
}

// run pairs streams until the client is gone, and ends with the last forward.
func (f *forwards) run(ctx context.Context, cancel context.CancelCauseFunc) {
	expired := make(chan *pair)
	for {
		select {
		case s := <-f.streams:
			if p := f.add(s, ctx, expired); p != nil {
				f.running.Go(func() { f.carry(ctx, p) })
			}
		case p := <-expired:
			if f.pairs[p.id] == p {
				f.drop(p)
			}
		case <-f.conn.CloseChan():
			cancel(ErrGone)
		case <-ctx.Done():
			for _, p := range f.pairs {
				p.timer.Stop()
			}
			f.conn.Close()
			f.running.Wait()
			return
		}
	}
}

// add returns the pair that a stream completes, or nil.
func (f *forwards) add(s httpstream.Stream, ctx context.Context, expired chan<- *pair) *pair {
	id := requestID(s)
	p := f.pairs[id]
	if p == nil {
		p = &pair{id: id}
		p.timer = time.AfterFunc(CreationTimeout, func() {
			select {
			case expired <- p:
			case <-ctx.Done():
			}
		})
		f.pairs[id] = p
	}
	slot := &p.data
	if s.Headers().Get(portforward.StreamType) == portforward.StreamTypeError {
		slot = &p.fault
	}
	if *slot != nil {
		f.end(s) // the second of its kind
		return nil
	}
	*slot = s
	if p.data == nil || p.fault == nil {
		return nil
	}
	p.timer.Stop()
	delete(f.pairs, id)
	return p
}

// requestID names a pair. Clients that send none make the error stream first and
// the data stream right after it.
func requestID(s httpstream.Stream) string {
	if id := s.Headers().Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	id := s.Identifier()
	if s.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		id -= 2
	}
	return strconv.Itoa(int(id))
}

func (f *forwards) drop(p *pair) {
	delete(f.pairs, p.id)
	for _, s := range []httpstream.Stream{p.data, p.fault} {
		if s != nil {
			f.end(s)
		}
	}
}

func (f *forwards) end(s httpstream.Stream) {
	s.Reset()
	f.conn.RemoveStreams(s)
}

// over says whether the connection has ended. A stream whose reply was sent when
// it had not can be written to; another would block its writer for ever.
func (f *forwards) over() bool {
	select {
	case <-f.conn.CloseChan():
		return true
	default:
		return false
	}
}

// carry runs one forward. An error goes to the client as text.
func (f *forwards) carry(ctx context.Context, p *pair) {
	defer f.end(p.data)
	defer f.end(p.fault)
	if f.over() {
		return
	}
	port, err := portOf(p.data)
	if err == nil {
		err = f.forward(ctx, port, p.data)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprint(p.fault, err)
	}
	p.fault.Close()
	if err == nil {
		p.data.Close()
	}
}

// Pump copies between a client's stream and a connection to a port. Each side
// may end before the other, and the other is told; it returns when both have, or
// one has failed, or ctx ends. It closes conn.
func Pump(ctx context.Context, stream io.ReadWriteCloser, conn HalfCloser) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := make(chan error, 1)
	go func() { in <- pumpIn(stream, conn) }()
	_, err := io.Copy(unlessReset{stream}, conn)
	if errors.Is(err, errReset) || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, net.ErrClosed) {
		return <-in // it was closed there
	}
	if err != nil {
		return fmt.Errorf("cannot read from the port: %w", err)
	}
	if _, ok := stream.(httpstream.Stream); !ok {
		return nil // a WebSocket's channel has one end only
	}
	stream.Close() // its FIN: the port has no more to say
	select {
	case err := <-in:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A HalfCloser is a connection of which one direction can be closed.
type HalfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// resetBound is how long after a stream's end it may show that the end was a
// reset: the library ends reading first and marks the stream then.
const resetBound = 100 * time.Millisecond

// pumpIn copies what the client sends.
func pumpIn(stream io.ReadWriteCloser, conn HalfCloser) error {
	if _, err := io.Copy(conn, stream); err != nil {
		conn.Close()
		return fmt.Errorf("cannot write to the port: %w", err)
	}
	if _, half := stream.(httpstream.Stream); !half || wasReset(stream) {
		conn.Close() // not the end of one direction: nobody listens any more
		return nil
	}
	conn.CloseWrite()
	time.AfterFunc(resetBound, func() {
		if wasReset(stream) {
			conn.Close()
		}
	})
	return nil
}

var errReset = errors.New("the client has reset the stream")

// wasReset tells whether the client has given a stream up, as long as we have not
// closed our side.
func wasReset(stream io.Writer) bool {
	s, ok := stream.(interface{ IsFinished() bool })
	return ok && s.IsFinished()
}

// unlessReset is a stream's writing side; frames for a stream that the client has
// reset would go nowhere for ever.
type unlessReset struct{ io.Writer }

func (u unlessReset) Write(b []byte) (int, error) {
	if wasReset(u.Writer) {
		return 0, errReset
	}
	return u.Writer.Write(b)
}
