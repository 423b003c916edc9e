package streams_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listen listens in the network namespace of a container's process and answers
// each connection with serve.
func listen(t *testing.T, pid int, address string, serve func(*net.TCPConn)) int {
	t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var l net.Listener
	if err := netns.Do(int(ns.Fd()), func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn.(*net.TCPConn)) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// lengthAfterEnd answers with how much came, once the client has ended its side.
func lengthAfterEnd(c *net.TCPConn) {
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintf(c, "%d bytes", n)
}

func TestPortForward(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), sleeper)
	conn, raw := connect(t, i, forwardURL(t, pod), "portforward.k8s.io")
	defer raw.Close()
	read := func(t *testing.T, f *forwarded) string {
		t.Helper()
		return collect(f.data).wait(t, "its end", func(_ string, ended bool) bool { return ended })
	}
	ids := 0
	through := func(t *testing.T, port int) *forwarded {
		t.Helper()
		ids++
		f, err := forward(t, conn, port, fmt.Sprint(ids))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	t.Run("client ends first", func(t *testing.T) {
		f := through(t, listen(t, c.PID(), "127.0.0.1:0", lengthAfterEnd))
		for range 100 {
			f.data.Write(make([]byte, 32<<10))
		}
		f.data.Close()
		equal(t, "answer", read(t, f), fmt.Sprint(100*32<<10, " bytes"))
	})
	t.Run("pod ends first", func(t *testing.T) {
		rest := make(chan int64, 1)
		f := through(t, listen(t, c.PID(), "127.0.0.1:0", func(c *net.TCPConn) {
			io.WriteString(c, "greeting")
			c.CloseWrite()
			n, _ := io.Copy(io.Discard, c)
			rest <- n
		}))
		equal(t, "answer", read(t, f), "greeting")
		f.data.Write(make([]byte, 1000))
		f.data.Close()
		select {
		case n := <-rest:
			equal(t, "bytes that came after the pod's end", n, 1000)
		case <-time.After(bound):
			t.Error("the client's end did not come")
		}
	})
	t.Run("IPv6", func(t *testing.T) {
		f := through(t, listen(t, c.PID(), "[::1]:0", lengthAfterEnd))
		f.data.Write([]byte("12345"))
		f.data.Close()
		equal(t, "answer", read(t, f), "5 bytes")
	})
	t.Run("nobody listens", func(t *testing.T) {
		f := through(t, 9)
		text := collect(f.fault).wait(t, "its end", func(_ string, ended bool) bool { return ended })
		if !strings.Contains(text, "port 9 ") || !strings.Contains(text, "connection refused") {
			t.Errorf("the error is %q", text)
		}
	})
	t.Run("a stream that is reset", func(t *testing.T) {
		// kubectl resets one stream and goes on using the connection.
		begun, ended := make(chan struct{}), make(chan error, 1)
		f := through(t, listen(t, c.PID(), "127.0.0.1:0", func(c *net.TCPConn) {
			close(begun)
			c.SetDeadline(time.Now().Add(bound))
			io.Copy(io.Discard, c) // and pays no attention to the end of the input
			for {
				if _, err := c.Write(make([]byte, 100)); err != nil {
					ended <- err
					return
				}
				time.Sleep(time.Millisecond)
			}
		}))
		f.data.Write([]byte("x"))
		<-begun // a stream that is reset earlier reaches no port
		f.data.Reset()
		if err := <-ended; os.IsTimeout(err) {
			t.Error("the pod's side goes on for ever")
		}
	})
	t.Run("the session goes", func(t *testing.T) {
		begun, ended := make(chan struct{}), make(chan error, 1)
		through(t, listen(t, c.PID(), "127.0.0.1:0", func(c *net.TCPConn) {
			close(begun)
			c.SetDeadline(time.Now().Add(bound))
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}))
		<-begun // a session that goes earlier reaches no port
		raw.Close()
		if err := <-ended; os.IsTimeout(err) {
			t.Error("the pod's side goes on for ever")
		}
	})
}

// TestPortForwardWebSocket: one connection per port of the request.
func TestPortForwardWebSocket(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), sleeper)
	port := listen(t, c.PID(), "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(c, c) })
	ws := dialWebSocket(t, i, forwardURL(t, pod, int32(port)), "v4.channel.k8s.io")
	defer ws.Close()
	want := binary.LittleEndian.AppendUint16(nil, uint16(port))
	equal(t, "the port of the data", string(receive(t, ws)), "\x00"+string(want))
	equal(t, "the port of the error", string(receive(t, ws)), "\x01"+string(want))
	websocket.Message.Send(ws, []byte("\x00hello"))
	equal(t, "echo", string(receive(t, ws)), "\x00hello")
}

// TestPortForwardHostNetwork: the pod's ports are the node's.
func TestPortForwardHostNetwork(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	})
	l, err := i.Node.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			lengthAfterEnd(c.(*net.TCPConn))
			c.Close()
		}
	}()
	conn, raw := connect(t, i, forwardURL(t, pod), "portforward.k8s.io")
	defer raw.Close()
	f, err := forward(t, conn, l.Addr().(*net.TCPAddr).Port, "1")
	if err != nil {
		t.Fatal(err)
	}
	f.data.Write([]byte("123"))
	f.data.Close()
	equal(t, "answer", collect(f.data).wait(t, "its end", func(_ string, ended bool) bool { return ended }), "3 bytes")
}

func TestPortForwardRefuses(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	for code, r := range map[codes.Code]*runtimeapi.PortForwardRequest{
		codes.InvalidArgument: {PodSandboxId: pod.ID, Port: []int32{70000}},
		codes.NotFound:        {PodSandboxId: "none", Port: []int32{80}},
	} {
		_, err := i.Runtime.PortForward(i.Context(), r)
		equal(t, "code", grpcstatus.Code(err), code)
	}
	pod.Stop()
	_, err := i.Runtime.PortForward(i.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: pod.ID})
	equal(t, "code for a pod that is stopped", grpcstatus.Code(err), codes.FailedPrecondition)
}
