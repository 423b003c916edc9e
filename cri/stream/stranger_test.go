package stream

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"testing"
	"time"
)

// TestStrangersAreLetGo: the port is on the node's loopback, where a pod on the
// node's network is too. Who has no token holds no connection for long, whatever
// he sends or leaves unsent.
func TestStrangersAreLetGo(t *testing.T) {
	t.Parallel()
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	link, err := s.Offer("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(link)
	held := map[string]net.Conn{}
	for name, request := range map[string]string{
		"half a header":  "POST /x HTTP/1.1\r\nHost: x\r\n",
		"half a body":    "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"half a chunk":   "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"a body to come": "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
		"no more":        "GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, request)
		conn.SetReadDeadline(time.Now().Add(headerBound + 10*time.Second))
		held[name] = conn
	}
	for name, conn := range held {
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is held for ever", name)
		}
	}
}
