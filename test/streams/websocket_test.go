package streams_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/net/websocket"
)

func dialWebSocket(t *testing.T, i *harness.Instance, link, protocol string) *websocket.Conn {
	t.Helper()
	conn, _ := dial(t, i, link)
	config, err := websocket.NewConfig(strings.Replace(link, "http:", "ws:", 1), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{protocol}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetDeadline(time.Now().Add(bound))
	return ws
}

// receive gives the next message that is not empty: channel and content.
func receive(t *testing.T, ws *websocket.Conn) []byte {
	t.Helper()
	for {
		var b []byte
		if err := websocket.Message.Receive(ws, &b); err != nil {
			t.Fatal(err)
		}
		if len(b) > 1 {
			return b
		}
	}
}

func TestWebSocketExec(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), sleeper)
	ws := dialWebSocket(t, i, execURL(t, c, streams{Stdin: true, Stdout: true}, sh("read x; echo got $x; exit 9")...), "v4.channel.k8s.io")
	defer ws.Close()
	websocket.Message.Send(ws, []byte("\x00text\n"))
	equal(t, "stdout", string(receive(t, ws)), "\x01got text\n")
	if end := string(receive(t, ws)); !strings.HasPrefix(end, "\x03") || !strings.Contains(end, `"message":"9"`) {
		t.Errorf("the end is %q", end)
	}

	ws = dialWebSocket(t, i, execURL(t, c, streams{Stdin: true, Stdout: true, TTY: true}, "/bin/sh"), "v4.channel.k8s.io")
	websocket.Message.Send(ws, []byte("\x04{\"Width\":101,\"Height\":37}"))
	websocket.Message.Send(ws, []byte("\x00while [ \"$(stty size)\" != '37 101' ]; do sleep 0.01; done; echo si''zed\n"))
	for got := ""; !strings.Contains(got, "sized"); {
		got += string(receive(t, ws)[1:])
	}
	before := processes(t, c)
	ws.Close()
	i.Wait("the shell to be hung up", func() bool { return processes(t, c) < before })
}

// TestWebSocketAttach: a client that did not ask for stdin does not end it.
func TestWebSocketAttach(t *testing.T) {
	i := harness.New(t)
	c := i.RunPod().Run("c", i.Image(busybox), []string{"/bin/cat"}, stdinOnce)
	ws := dialWebSocket(t, i, attachURL(t, c, streams{Stdout: true}), "v4.channel.k8s.io")
	out := collect(ws)
	a := attach(t, c, streams{Stdin: true, Stdout: true})
	// What is written before it is attached is not for it, and nothing tells it when it is.
	i.Wait("what the container writes", func() bool {
		a.stdin.Write([]byte("text\n"))
		return strings.Contains(out.soFar(), "\x01text\n")
	})
	ws.Close()
	a.stdin.Close()
	equal(t, "exit code", c.WaitExit().ExitCode, 0)
}
