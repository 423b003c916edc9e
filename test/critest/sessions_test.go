package critest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// sessionBound is how long a session's end may take.
var sessionBound = harness.Long(30 * time.Second)

// dial connects from where the runtime is.
func (n *node) dial(address string) net.Conn {
	n.Helper()
	dial := (&net.Dialer{}).DialContext
	if n.private != nil {
		dial = n.private.Node.Dial
	}
	ctx, cancel := context.WithTimeout(context.Background(), sessionBound)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		n.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(sessionBound))
	return conn
}

// open opens a session at a streaming URL, by SPDY as kubectl does.
func (n *node) open(link, protocol string) httpstream.Connection {
	n.Helper()
	u, err := url.Parse(link)
	if err != nil {
		n.Fatal(err)
	}
	conn := n.dial(u.Host)
	r, err := http.NewRequest("POST", link, nil)
	if err != nil {
		n.Fatal(err)
	}
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {protocol}}
	if err := r.Write(conn); err != nil {
		n.Fatal(err)
	}
	// One byte at a time: what follows the answer is SPDY's.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		n.Fatalf("no session at %s: %v, %v", link, resp, err)
	}
	session, err := spdy.NewClientConnection(conn)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { session.Close(); conn.Close() })
	return session
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }

func (n *node) stream(s httpstream.Connection, header http.Header) httpstream.Stream {
	n.Helper()
	stream, err := s.CreateStream(header)
	if err != nil {
		n.Fatalf("cannot create the stream %v: %v", header, err)
	}
	return stream
}

// attach gives stdin and stdout of a container.
func (c *container) attach() (stdin, stdout httpstream.Stream) {
	c.Helper()
	resp, err := c.runtime.Attach(c.ctx(), &runtimeapi.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true})
	if err != nil {
		c.Fatal(err)
	}
	session := c.open(resp.Url, remotecommand.StreamProtocolV4Name)
	kind := func(name string) httpstream.Stream {
		return c.stream(session, http.Header{remotecommand.StreamType: {name}})
	}
	kind(remotecommand.StreamTypeError)
	return kind(remotecommand.StreamTypeStdin), kind(remotecommand.StreamTypeStdout)
}

// TestStdinOnce: the end of the first client's input is the end of the
// container's; without stdin_once the next client goes on.
func TestStdinOnce(t *testing.T) {
	clause(t, "Variables for interactive containers, these have very specialized")
	n := newNode(t)
	p := n.pod()
	cat := func(once bool) *container {
		return p.run(command("/bin/cat"), func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, once })
	}
	say := func(c *container, text string) {
		stdin, stdout := c.attach()
		io.WriteString(stdin, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(stdout, got); err != nil || string(got) != text {
			t.Fatalf("%q came back as %q, %v", text, got, err)
		}
		stdin.Close()
	}
	once := cat(true)
	say(once, "only\n")
	equal(t, "exit code with stdin_once", once.ended().ExitCode, 0)
	many := cat(false)
	say(many, "first\n")
	say(many, "second\n")
	equal(t, "state without stdin_once", many.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

// TestExecSession: a command's streams are apart, its input ends, and its exit
// code comes back.
func TestExecSession(t *testing.T) {
	clause(t, "Exec prepares a streaming endpoint to execute a command in the container.")
	n := newNode(t)
	c := n.pod().run()
	resp, err := n.runtime.Exec(n.ctx(), &runtimeapi.ExecRequest{ContainerId: c.id, Stdin: true, Stdout: true, Stderr: true,
		Cmd: []string{"/bin/sh", "-c", "cat; echo err >&2; exit 7"}})
	if err != nil {
		t.Fatal(err)
	}
	session := n.open(resp.Url, remotecommand.StreamProtocolV4Name)
	streams := map[string]httpstream.Stream{}
	for _, kind := range []string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr} {
		streams[kind] = n.stream(session, http.Header{remotecommand.StreamType: {kind}})
	}
	io.WriteString(streams[remotecommand.StreamTypeStdin], "through")
	streams[remotecommand.StreamTypeStdin].Close()
	for kind, want := range map[string]string{remotecommand.StreamTypeStdout: "through", remotecommand.StreamTypeStderr: "err\n"} {
		got, err := io.ReadAll(streams[kind])
		if err != nil || string(got) != want {
			t.Errorf("%s has %q, %v; want %q", kind, got, err, want)
		}
	}
	if end, err := io.ReadAll(streams[remotecommand.StreamTypeError]); err != nil || !strings.Contains(string(end), `"7"`) {
		t.Errorf("the end is %s, %v; want exit code 7", end, err)
	}
}

// TestPortForwardHalfClose: when one side has said all, the other may go on.
func TestPortForwardHalfClose(t *testing.T) {
	clause(t, "PortForward prepares a streaming endpoint to forward ports from a PodSandbox.")
	n := newNode(t)
	p := n.pod()
	// The answer comes seconds after the end of the question.
	c := p.run(script("nc -l -p 7070 -e /bin/sh -c 'n=$(wc -c); sleep 2; echo $n bytes'"))
	eventually(t, "the listener", func() bool { return strings.Contains(c.sh("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null"), ":1B9E ") })
	resp, err := n.runtime.PortForward(n.ctx(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{7070}})
	if err != nil {
		t.Fatal(err)
	}
	session := n.open(resp.Url, portforward.ProtocolV1Name)
	kind := func(name string) httpstream.Stream {
		return n.stream(session, http.Header{portforward.PortHeader: {"7070"}, portforward.PortForwardRequestIDHeader: {"1"}, portforward.StreamType: {name}})
	}
	kind(portforward.StreamTypeError)
	data := kind(portforward.StreamTypeData)
	const size = 1 << 20
	if _, err := data.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	data.Close()
	got, err := io.ReadAll(data)
	if err != nil || string(got) != fmt.Sprintln(size, "bytes") {
		t.Errorf("the answer is %q, %v", got, err)
	}
}
