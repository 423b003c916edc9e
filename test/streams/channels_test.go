package streams_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/net/websocket"
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
