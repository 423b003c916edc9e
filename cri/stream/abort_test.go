package stream

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// The long form: go test ./cri/stream -run Aborted -sessions 10000
var sessions = flag.Int("sessions", 300, "how many sessions TestAbortedSessions aborts")

// TestAbortedSessions aborts sessions at any point, by any kind of end: nothing
// of them may be left.
func TestAbortedSessions(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	port := echo(t)
	before := goroutines()
	limit := make(chan struct{}, 16)
	var all sync.WaitGroup
	for n := range *sessions {
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			abortOne(t, s, port, n)
		})
	}
	all.Wait()
	deadline := time.Now().Add(lingerBound + 10*time.Second)
	for after := goroutines(); len(after) > len(before); after = goroutines() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left after %d sessions, before there were %d:\n%s", len(after), *sessions, len(before), kindsOf(after))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// goroutines lists the stacks of all.
func goroutines() []string {
	b := make([]byte, 64<<20)
	return strings.Split(strings.TrimSpace(string(b[:runtime.Stack(b, true)])), "\n\n")
}

// kindsOf counts equal stacks.
func kindsOf(stacks []string) string {
	count := map[string]int{}
	for _, s := range stacks {
		lines := strings.Split(s, "\n")[1:]
		var calls []string
		for n := 0; n < len(lines); n += 2 {
			name, _, _ := strings.Cut(lines[n], "(0x")
			calls = append(calls, name)
		}
		count[strings.Join(calls, " < ")]++
	}
	var out strings.Builder
	for k, n := range count {
		fmt.Fprintf(&out, "%5d %s\n", n, k)
	}
	return out.String()
}

// echo listens and sends back what comes.
func echo(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func forwardTo(port int) Forward {
	return func(ctx context.Context, _ uint16, client io.ReadWriteCloser) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		return Pump(ctx, client, conn.(*net.TCPConn))
	}
}

// command copies its input until the client is gone or the input has ended.
func command(r *http.Request) Session {
	return func(in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommand.TerminalSize) error {
		done := make(chan struct{})
		go func() { io.Copy(struct{ io.Writer }{out}, struct{ io.Reader }{in}); close(done) }()
		select {
		case <-done:
		case <-r.Context().Done():
		}
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		Ending(r)
		return nil
	}
}

// abortOne goes a random number of steps into a session and ends it in a random way.
func abortOne(t *testing.T, s *Server, port, n int) {
	isExec := n%2 == 0
	link, err := s.Offer("test", func(w http.ResponseWriter, r *http.Request) {
		if isExec {
			ServeRemote(w, r, &remotecommand.Options{Stdin: true, Stdout: true, TTY: true}, command(r))
			return
		}
		ServePortForward(w, r, nil, forwardTo(port))
	})
	if err != nil {
		t.Error(err)
		return
	}
	u, _ := url.Parse(link)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	end := func() {
		if rand.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0) // a reset instead of an end
		}
		conn.Close()
	}
	steps := rand.IntN(8)
	if steps == 0 {
		s.take(u.Path) // it would expire, but not within this test
		end()
		return
	}
	protocol := portforward.ProtocolV1Name
	if isExec {
		protocol = remotecommand.StreamProtocolV4Name
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.Path, protocol)
	if steps == 1 {
		end()
		s.take(u.Path)
		return
	}
	if _, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), nil); err != nil {
		t.Error(err)
		return
	}
	c, err := spdystream.NewConnection(conn, false)
	if err != nil {
		t.Error(err)
		return
	}
	go c.Serve(spdystream.NoOpStreamHandler)
	streams := []http.Header{{"streamType": {"error"}}, {"streamType": {"stdin"}}, {"streamType": {"stdout"}}, {"streamType": {"resize"}}}
	if !isExec {
		streams = nil
		for k := range 2 {
			for _, kind := range []string{"error", "data"} {
				streams = append(streams, http.Header{"streamType": {kind}, "port": {"80"}, "requestID": {fmt.Sprint(k)}})
			}
		}
	}
	steps -= 2
	var made []*spdystream.Stream
	for k, h := range streams {
		stream, err := c.CreateStream(h, nil, false)
		if err != nil {
			t.Error(err)
			break
		}
		made = append(made, stream)
		if k == steps {
			break // without waiting for the answer, as a client that dies meanwhile
		}
		if err := stream.WaitTimeout(10 * time.Second); err != nil {
			t.Error(err)
		}
	}
	if len(made) == len(streams) {
		b := make([]byte, rand.IntN(100000)+1)
		made[1].Write(b)
		switch rand.IntN(3) {
		case 0:
			made[1].Reset()
		case 1:
			made[1].Close()
		}
	}
	if rand.IntN(3) == 0 {
		conn.Write([]byte{0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0}) // GOAWAY
	}
	end()
	<-c.CloseChan()
	for _, stream := range made {
		stream.Reset() // the client's own goroutines wait for readers
	}
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }

// TestStreamsTooMany: streams that the session has no use for, also such as come
// later, end or are refused, and leave nothing.
func TestStreamsTooMany(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := goroutines()
	for _, kinds := range [][]string{
		{"error", "stdin", "stdout", "resize", "stdout", "error"}, {"error", "error"}, {"error", "stdin", "nonsense"}, {"stderr"}, {""},
	} {
		link, err := s.Offer("test", func(w http.ResponseWriter, r *http.Request) {
			ServeRemote(w, r, &remotecommand.Options{Stdin: true, Stdout: true, TTY: true}, command(r))
		})
		if err != nil {
			t.Fatal(err)
		}
		c := dialSPDY(t, link, remotecommand.StreamProtocolV4Name)
		for n, kind := range kinds {
			stream, err := c.CreateStream(http.Header{"streamType": {kind}}, nil, false)
			if err == nil {
				err = stream.WaitTimeout(10 * time.Second)
			}
			if n < 4 && len(kinds) > 4 && err != nil {
				t.Errorf("stream %d of %v: %v", n, kinds, err)
			}
			if n >= 4 && err == nil {
				t.Errorf("stream %d of %v was taken", n, kinds)
			}
		}
		if len(kinds) <= 4 { // the session is over by itself
			select {
			case <-c.CloseChan():
			case <-time.After(10 * time.Second):
				t.Errorf("after %v the session goes on", kinds)
			}
		}
		c.Close()
	}
	deadline := time.Now().Add(lingerBound + 10*time.Second)
	for after := goroutines(); len(after) > len(before); after = goroutines() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, before there were %d:\n%s", len(after), len(before), kindsOf(after))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func dialSPDY(t *testing.T, link, protocol string) *spdystream.Connection {
	t.Helper()
	u, _ := url.Parse(link)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.Path, protocol)
	if _, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), nil); err != nil {
		t.Fatal(err)
	}
	c, err := spdystream.NewConnection(conn, false)
	if err != nil {
		t.Fatal(err)
	}
	go c.Serve(spdystream.NoOpStreamHandler)
	return c
}

// TestOfferOnce: a URL works once, within a minute, and not all memory is lent.
func TestOfferOnce(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	link, err := s.Offer("test", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{http.StatusOK, http.StatusNotFound} {
		resp, err := http.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	u, _ := url.Parse(link)
	s.offers[u.Path] = &offer{expires: time.Now().Add(-time.Second)}
	if s.take(u.Path) != nil {
		t.Error("an offer that expired is taken")
	}
	for range maxOffers {
		if _, err = s.Offer("test", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = s.Offer("test", nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("offer %d: %v", maxOffers+1, err)
	}
}
