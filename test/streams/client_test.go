package streams_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// bound is how long a test waits for what a stream should bring.
var bound = harness.Long(20 * time.Second)

// dial connects to a streaming URL from the node.
func dial(t testing.TB, i *harness.Instance, link string) (net.Conn, *url.URL) {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := i.Node.Dial(i.Context(), "tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return conn, u
}

// upgrade asks for SPDY and returns the answer.
func upgrade(t testing.TB, conn net.Conn, u *url.URL, protocol string) *http.Response {
	t.Helper()
	r, _ := http.NewRequest("POST", u.String(), nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "SPDY/3.1")
	r.Header.Set("X-Stream-Protocol-Version", protocol)
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	// One byte at a time: what follows is SPDY's.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }

// connect opens a SPDY connection.
func connect(t testing.TB, i *harness.Instance, link, protocol string) (httpstream.Connection, net.Conn) {
	t.Helper()
	conn, u := dial(t, i, link)
	if resp := upgrade(t, conn, u, protocol); resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, body)
	}
	c, err := spdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	return c, conn
}

// A session is an exec or attach, as kubectl has it.
type session struct {
	t                     testing.TB
	conn                  httpstream.Connection
	raw                   net.Conn
	stdin, resize         httpstream.Stream
	stdout, stderr, fault *output
}

// An output is read all the time: a stream that nobody reads holds up the others.
type output struct {
	mu      sync.Mutex
	text    []byte
	ended   bool
	changed chan struct{} // closed at the next change
}

func collect(r io.Reader) *output {
	o := &output{changed: make(chan struct{})}
	go func() {
		b := make([]byte, 32<<10)
		for {
			n, err := r.Read(b)
			o.mu.Lock()
			o.text = append(o.text, b[:n]...)
			o.ended = err != nil
			close(o.changed)
			o.changed = make(chan struct{})
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

// soFar is what has come by now.
func (o *output) soFar() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// wait returns what has come once enough is true of it.
func (o *output) wait(t testing.TB, what string, enough func(text string, ended bool) bool) string {
	t.Helper()
	timeout := time.After(bound)
	for {
		o.mu.Lock()
		text, ended, changed := string(o.text), o.ended, o.changed
		o.mu.Unlock()
		if enough(text, ended) {
			return text
		}
		if ended {
			t.Fatalf("the stream ended before %s; it had %.200q", what, text)
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("waited %v in vain for %s; the stream has %.200q", bound, what, text)
		}
	}
}

// open makes the streams that were asked for.
func open(t testing.TB, i *harness.Instance, link string, want *remotecommand.Options) *session {
	t.Helper()
	s := &session{t: t}
	s.conn, s.raw = connect(t, i, link, remotecommand.StreamProtocolV4Name)
	t.Cleanup(func() { s.conn.Close(); s.raw.Close() })
	var fault, stdout, stderr httpstream.Stream
	for _, one := range []struct {
		kind string
		want bool
		slot *httpstream.Stream
	}{
		{remotecommand.StreamTypeError, true, &fault}, {remotecommand.StreamTypeStdin, want.Stdin, &s.stdin},
		{remotecommand.StreamTypeStdout, want.Stdout, &stdout}, {remotecommand.StreamTypeStderr, want.Stderr, &stderr},
		{remotecommand.StreamTypeResize, want.TTY, &s.resize},
	} {
		if !one.want {
			continue
		}
		stream, err := s.conn.CreateStream(http.Header{remotecommand.StreamType: {one.kind}})
		if err != nil {
			t.Fatalf("cannot create the %s stream: %v", one.kind, err)
		}
		*one.slot = stream
	}
	s.fault = collect(fault)
	if stdout != nil {
		s.stdout = collect(stdout)
	}
	if stderr != nil {
		s.stderr = collect(stderr)
	}
	return s
}

// exec starts a command by Exec.
func exec(t testing.TB, c *harness.Container, want remotecommand.Options, cmd ...string) *session {
	t.Helper()
	return open(t, c.Instance, execURL(t, c, want, cmd...), &want)
}

func execURL(t testing.TB, c *harness.Container, want remotecommand.Options, cmd ...string) string {
	t.Helper()
	resp, err := c.Runtime.Exec(c.Context(), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: cmd,
		Stdin: want.Stdin, Stdout: want.Stdout, Stderr: want.Stderr, Tty: want.TTY})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

func attach(t testing.TB, c *harness.Container, want remotecommand.Options) *session {
	t.Helper()
	return open(t, c.Instance, attachURL(t, c, want), &want)
}

func attachURL(t testing.TB, c *harness.Container, want remotecommand.Options) string {
	t.Helper()
	resp, err := c.Runtime.Attach(c.Context(), &runtimeapi.AttachRequest{ContainerId: c.ID,
		Stdin: want.Stdin, Stdout: want.Stdout, Stderr: want.Stderr, Tty: want.TTY})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

// all gives a stream to its end.
func (s *session) all(o *output) string {
	s.t.Helper()
	return o.wait(s.t, "its end", func(_ string, ended bool) bool { return ended })
}

// until gives a stream up to a moment when the text has come.
func (s *session) until(o *output, text string) string {
	s.t.Helper()
	return o.wait(s.t, fmt.Sprintf("%q", text), func(got string, _ bool) bool { return strings.Contains(got, text) })
}

// A status is what the error stream tells (metav1.Status).
type status struct {
	Status, Message, Reason string
	Details                 struct {
		Causes []struct{ Reason, Message string }
	}
}

// end waits for the outcome: "Success", an exit code, or an error's text.
func (s *session) end() string {
	s.t.Helper()
	var st status
	text := s.all(s.fault)
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		s.t.Fatalf("the error stream has %q: %v", text, err)
	}
	if st.Reason == "NonZeroExitCode" && len(st.Details.Causes) == 1 && st.Details.Causes[0].Reason == "ExitCode" {
		return st.Details.Causes[0].Message
	}
	return strings.TrimSpace(st.Status + " " + st.Message)
}

// size tells the terminal's size.
func (s *session) size(width, height uint16) {
	s.t.Helper()
	if err := json.NewEncoder(s.resize).Encode(remotecommand.TerminalSize{Width: width, Height: height}); err != nil {
		s.t.Fatal(err)
	}
}

// vanish is a client that dies.
func (s *session) vanish() {
	s.raw.(*net.TCPConn).SetLinger(0)
	s.raw.Close()
}

// A forwarded is one connection through a port-forward session.
type forwarded struct{ data, fault httpstream.Stream }

// forward opens a connection to a port in a session.
func forward(t testing.TB, conn httpstream.Connection, port int, id string) (*forwarded, error) {
	header := func(kind string) http.Header {
		return http.Header{portforward.PortHeader: {fmt.Sprint(port)}, portforward.PortForwardRequestIDHeader: {id}, portforward.StreamType: {kind}}
	}
	fault, err := conn.CreateStream(header(portforward.StreamTypeError))
	if err != nil {
		return nil, err
	}
	data, err := conn.CreateStream(header(portforward.StreamTypeData))
	if err != nil {
		return nil, err
	}
	return &forwarded{data, fault}, nil
}

func forwardURL(t testing.TB, p *harness.Pod, ports ...int32) string {
	t.Helper()
	resp, err := p.Runtime.PortForward(p.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.ID, Port: ports})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}
