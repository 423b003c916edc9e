package streams_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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

// The long form: go test ./test/streams -run Aborted -sessions 10000 -timeout 30m
var sessions = flag.Int("sessions", 60, "how many sessions TestAborted aborts")

// held is what a daemon and its keeper hold.
type held struct{ goroutines, threads, descriptors, keeperThreads, keeperDescriptors, processes int }

func (h held) within(before held) bool {
	// A Go program keeps its threads for later: those of the sessions under way at
	// a time may stay, not one for each session.
	const kept = 2 * atATime
	return h.goroutines <= before.goroutines && h.descriptors <= before.descriptors && h.keeperDescriptors <= before.keeperDescriptors &&
		h.processes <= before.processes && h.threads <= before.threads+kept && h.keeperThreads <= before.keeperThreads+kept
}

// atATime is how many sessions are under way together.
const atATime = 16

func measure(t *testing.T, i *harness.Instance, containers ...*harness.Container) held {
	t.Helper()
	h := held{goroutines: goroutines(t, i), threads: threads(t, i.PID()), descriptors: descriptors(t, i.PID()),
		keeperThreads: threads(t, i.Keeper()), keeperDescriptors: descriptors(t, i.Keeper()) - spawnerDescriptors*spawners(t, i.Keeper())}
	for _, c := range containers {
		h.processes += processes(t, c)
	}
	return h
}

// spawnerDescriptors are what a keeper holds for each of its spawners, a bounded
// number that it makes when many commands start at a time: the socket, its duplicate in
// the poller, and a pidfd.
const spawnerDescriptors = 3

// spawners counts the keeper's, by parent and name.
func spawners(t *testing.T, keeper int) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		stat, _ := os.ReadFile(file)
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(keeper) && strings.HasSuffix(string(cmdline), "\x00spawner\x00") {
			n++
		}
	}
	return n
}

// goroutines counts those of serve, by its profile.
func goroutines(t *testing.T, i *harness.Instance) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(i.State, "admin.sock"))
	}}}
	resp, err := client.Get("http://cri-box/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	total := regexp.MustCompile(`total (\d+)`).FindSubmatch(text)
	if err != nil || total == nil {
		t.Fatalf("%v: %.200s", err, text)
	}
	n, _ := strconv.Atoi(string(total[1]))
	return n
}

// TestAborted: sessions of every kind that die at any point, in any way, leave
// neither goroutine, thread nor descriptor in serve and keeper, and no process.
func TestAborted(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	shell := pod.Run("shell", i.Image(busybox), []string{"/bin/sh"}, tty)
	plain := pod.Run("plain", i.Image(busybox), sh("while read x; do echo $x; done; exec sleep 1000"), stdin)
	port := listen(t, plain.PID(), "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(c, c) })
	plain.MustExec("/bin/true")
	// What serve holds for the next pods is made in the background.
	i.Wait("the links of this pod and the next", func() bool { return len(i.Links()) == 1+harness.Ahead })
	before := measure(t, i, shell, plain)
	kinds := []func() aborted{
		func() aborted { return execSession(shell, true) }, func() aborted { return execSession(plain, false) },
		func() aborted { return attachSession(shell, true) }, func() aborted { return attachSession(plain, false) },
		func() aborted { return forwardSession(pod, port) },
	}
	limit := make(chan struct{}, atATime)
	var all sync.WaitGroup
	for n := range *sessions {
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			if err := kinds[n%len(kinds)]().abort(i); err != nil {
				t.Errorf("session %d: %v", n, err)
			}
		})
	}
	all.Wait()
	var after held
	defer func() { t.Logf("%d sessions: before %+v, after %+v", *sessions, before, after) }()
	for end := time.Now().Add(2 * bound); ; time.Sleep(100 * time.Millisecond) {
		plain.MustExec("/bin/true") // where a command was still dying, the next one removes its group
		if after = measure(t, i, shell, plain); after.within(before) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the sessions are not let go")
		}
	}
	if state := plain.Status().State; state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", state)
	}
	equal(t, "an exec after all", mustExec(t, plain, "echo", "works").Stdout, "works\n")
}

// An aborted is a session that will not come to its end.
type aborted struct {
	link     string
	err      error
	protocol string
	streams  []http.Header
	data     int // the stream that the client writes to
}

func streamsOf(kinds ...string) (list []http.Header) {
	for _, k := range kinds {
		list = append(list, http.Header{remotecommand.StreamType: {k}})
	}
	return list
}

func execSession(c *harness.Container, terminal bool) aborted {
	cmd := [][]string{{"/bin/cat"}, {"/bin/yes"}, {"/bin/sleep", "1000"}, {"/bin/true"}}[rand.IntN(4)]
	resp, err := c.Runtime.Exec(context.Background(), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: cmd, Stdin: true, Stdout: true, Tty: terminal})
	return aborted{resp.GetUrl(), err, remotecommand.StreamProtocolV4Name, streamsOf("error", "stdin", "stdout", "resize")[:map[bool]int{true: 4, false: 3}[terminal]], 1}
}

func attachSession(c *harness.Container, terminal bool) aborted {
	resp, err := c.Runtime.Attach(context.Background(), &runtimeapi.AttachRequest{ContainerId: c.ID, Stdin: true, Stdout: true, Tty: terminal})
	return aborted{resp.GetUrl(), err, remotecommand.StreamProtocolV4Name, streamsOf("error", "stdin", "stdout", "resize")[:map[bool]int{true: 4, false: 3}[terminal]], 1}
}

func forwardSession(p *harness.Pod, port int) aborted {
	resp, err := p.Runtime.PortForward(context.Background(), &runtimeapi.PortForwardRequest{PodSandboxId: p.ID})
	a := aborted{resp.GetUrl(), err, portforward.ProtocolV1Name, nil, 1}
	if rand.IntN(4) == 0 {
		port = 9 // where nobody listens
	}
	for id := range 2 {
		for _, kind := range []string{portforward.StreamTypeError, portforward.StreamTypeData} {
			a.streams = append(a.streams, http.Header{portforward.PortHeader: {strconv.Itoa(port)}, portforward.PortForwardRequestIDHeader: {strconv.Itoa(id)}, portforward.StreamType: {kind}})
		}
	}
	return a
}

// abort goes some steps into the session and ends it in some way.
func (a aborted) abort(i *harness.Instance) error {
	if a.err != nil {
		return a.err
	}
	u, err := url.Parse(a.link)
	if err != nil {
		return err
	}
	conn, err := i.Node.Dial(context.Background(), "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if rand.IntN(2) == 0 {
		conn.(*net.TCPConn).SetLinger(0) // a reset instead of an end
	}
	steps := rand.IntN(len(a.streams) + 5)
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.RequestURI(), a.protocol)
	switch steps {
	case 0:
		_, err = io.WriteString(conn, request[:len(request)/2])
		return err
	case 1:
		_, err = io.WriteString(conn, request)
		return err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if err := readAnswer(conn); err != nil {
		return err
	}
	client, err := spdy.NewClientConnection(conn)
	if err != nil {
		return err
	}
	defer client.Close()
	return a.use(client, steps-2)
}

// use makes some of the streams and writes some bytes.
func (a aborted) use(client httpstream.Connection, steps int) error {
	var made []httpstream.Stream
	for _, header := range a.streams[:min(steps, len(a.streams))] {
		s, err := client.CreateStream(header)
		if err != nil {
			return nil // a command may have ended the session already
		}
		made = append(made, s)
	}
	if len(made) < len(a.streams) {
		return nil
	}
	if len(a.streams) == 3 || len(a.streams) == 4 && steps > len(a.streams) {
		made[a.data].Write(make([]byte, rand.IntN(100000)+1))
		made[a.data].Write([]byte("\n"))
	}
	switch rand.IntN(4) {
	case 0:
		made[a.data].Reset()
	case 1:
		made[a.data].Close()
	case 2:
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // a moment that nobody chose
	}
	return nil
}

// readAnswer reads the answer's head and no byte more.
func readAnswer(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(bound))
	defer conn.SetReadDeadline(time.Time{})
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one...) {
		if _, err := conn.Read(one); err != nil {
			return fmt.Errorf("after %q: %w", head, err)
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		return fmt.Errorf("the answer is %q", head)
	}
	return nil
}
