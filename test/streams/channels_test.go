package streams_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/net/websocket"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// channels opens a WebSocket and checks which protocol was chosen of one offered.
func channels(t *testing.T, i *harness.Instance, link, protocol string) *websocket.Conn {
	t.Helper()
	conn, _ := dial(t, i, link)
	config, err := websocket.NewConfig(strings.Replace(link, "http:", "ws:", 1), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{protocol}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatalf("%s: %v", protocol, err)
	}
	t.Cleanup(func() { ws.Close() })
	ws.SetDeadline(time.Now().Add(bound))
	return ws
}

// message is the next one that is not empty: channel and content.
func message(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	for {
		var b []byte
		if err := websocket.Message.Receive(ws, &b); err != nil {
			t.Fatal(err)
		}
		if len(b) > 1 {
			return string(b)
		}
	}
}

const v5 = "v5.channel.k8s.io"

// In v5 a client ends stdin and still gets what comes after it.
func TestChannelsEndStdin(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	ws := channels(t, i, execURL(t, c, streams{Stdin: true, Stdout: true}, sh("cat; echo the end; exit 9")...), v5)
	websocket.Message.Send(ws, []byte("\x00text\n"))
	equal(t, "stdout", message(t, ws), "\x01text\n")
	websocket.Message.Send(ws, []byte("\xff\x00"))
	equal(t, "stdout after stdin ended", message(t, ws), "\x01the end\n")
	if end := message(t, ws); !strings.HasPrefix(end, "\x03") || !strings.Contains(end, `"reason":"ExitCode","message":"9"`) {
		t.Errorf("the end is %q", end)
	}
}

func TestChannelsTTY(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	ws := channels(t, i, execURL(t, c, streams{Stdin: true, Stdout: true, TTY: true}, "/bin/sh"), v5)
	websocket.Message.Send(ws, []byte("\x04{\"Width\":101,\"Height\":37}"))
	websocket.Message.Send(ws, []byte("\x00while [ \"$(stty size)\" != '37 101' ]; do sleep 0.01; done; echo si''zed; exit\n"))
	for got := ""; !strings.Contains(got, "sized"); {
		got += message(t, ws)[1:]
	}
	end := message(t, ws)
	for !strings.HasPrefix(end, "\x03") {
		end = message(t, ws)
	}
	equal(t, "the end", end, "\x03{\"status\":\"Success\"}\n")
}

// Several connections go through one WebSocket, and each end of one is told.
func TestPortForwardTunnel(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(busybox), run("serve-http", "8080", "the page"))
	i.Wait("the port to be open", func() bool {
		r, err := c.Exec(bound, run("get", "http://127.0.0.1:8080/")...)
		return err == nil && r.Code == 0
	})
	ws := channels(t, i, forwardURL(t, pod), "SPDY/3.1+portforward.k8s.io")
	ws.PayloadType = websocket.BinaryFrame
	ws.SetDeadline(time.Time{})
	conn, err := spdy.NewClientConnection(named{ws})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, id := range []string{"1", "2"} {
		f, err := forward(t, conn, 8080, id)
		if err != nil {
			t.Fatal(err)
		}
		f.data.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		f.data.Close()
		got, err := io.ReadAll(f.data)
		if err != nil || !strings.HasSuffix(string(got), "the page") {
			t.Errorf("connection %s gives %q and %v", id, got, err)
		}
	}
}

// named is a WebSocket with the addresses that SPDY's log asks for.
type named struct{ *websocket.Conn }

func (named) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (named) RemoteAddr() net.Addr { return &net.TCPAddr{} }
