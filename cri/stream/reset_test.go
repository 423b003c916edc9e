package stream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"k8s.io/streaming/pkg/httpstream/spdy"
)

// TestResetEndsThePort: a client that gives one stream up, but goes on using the
// session, lets go of the port, also of one that ignores the end of its input.
func TestResetEndsThePort(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link, err := s.Offer("test", func(w http.ResponseWriter, r *http.Request) {
		ServePortForward(w, r, nil, func(ctx context.Context, _ uint16, client io.ReadWriteCloser) error {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			return Pump(ctx, client, conn.(*net.TCPConn))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(link)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", u.Path)
	if _, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), nil); err != nil {
		t.Fatal(err)
	}
	c, err := spdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		h := http.Header{"streamType": {"error"}, "port": {"80"}, "requestID": {fmt.Sprint(n)}}
		if _, err := c.CreateStream(h); err != nil {
			t.Fatal(err)
		}
		h = http.Header{"streamType": {"data"}, "port": {"80"}, "requestID": {fmt.Sprint(n)}}
		data, err := c.CreateStream(h)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		if n%2 == 0 {
			data.Reset()
		}
		port, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		data.Reset()
		port.SetDeadline(time.Now().Add(10 * time.Second))
		io.Copy(io.Discard, port)
		for err = nil; err == nil; time.Sleep(time.Millisecond) {
			_, err = port.Write(make([]byte, 100))
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatalf("session %d: the port goes on for ever", n)
		}
		port.Close()
	}
}
