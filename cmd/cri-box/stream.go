package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// dialBound is how long the daemon may take to answer at a URL that it has given.
const dialBound = 10 * time.Second

// maxFault is how much of the error channel is read, in bytes.
const maxFault = 64 << 10

// streams are those of ours that are joined to something in a container.
type streams struct {
	stdin, output bool
	tty           bool // output is one stream, and the size is told
}

// stream joins our own streams to a URL of Exec or Attach and returns the exit
// code of what is at its other end.
func (c *client) stream(ctx context.Context, link string, want streams) (int, error) {
	conn, err := dialStream(ctx, link)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	open := func(want bool, kind string) httpstream.Stream {
		if err != nil || !want {
			return nil
		}
		var s httpstream.Stream
		s, err = conn.CreateStream(http.Header{remotecommand.StreamType: {kind}})
		return s
	}
	fault := open(true, remotecommand.StreamTypeError)
	stdin := open(want.stdin, remotecommand.StreamTypeStdin)
	stdout := open(want.output, remotecommand.StreamTypeStdout)
	stderr := open(want.output && !want.tty, remotecommand.StreamTypeStderr)
	resize := open(want.tty, remotecommand.StreamTypeResize)
	if err != nil {
		return 0, fmt.Errorf("cannot open streams: %w", err)
	}
	if want.tty {
		defer rawTerminal()()
		go sendSizes(ctx, resize)
	}
	if want.stdin {
		go func() { io.Copy(stdin, os.Stdin); stdin.Close() }() // ends with the process
	}
	return drain(fault, stdout, stderr)
}

// drain prints until all streams have ended.
func drain(fault, stdout, stderr httpstream.Stream) (int, error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if stderr != nil {
			io.Copy(os.Stderr, stderr)
		}
	}()
	if stdout != nil {
		if _, err := io.Copy(os.Stdout, stdout); err != nil {
			return 0, fmt.Errorf("the stream broke: %w", err)
		}
	}
	<-done
	text, err := io.ReadAll(io.LimitReader(fault, maxFault))
	if err != nil {
		return 0, fmt.Errorf("the stream broke: %w", err)
	}
	return outcome(text)
}

// outcome reads the error channel of protocol v4: a Kubernetes Status.
func outcome(text []byte) (int, error) {
	if len(text) == 0 {
		return 0, nil
	}
	var s struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, fmt.Errorf("cannot read how it ended: %w", err)
	}
	if s.Status == "Success" {
		return 0, nil
	}
	for _, cause := range s.Details.Causes {
		if code, err := strconv.Atoi(cause.Message); err == nil && cause.Reason == "ExitCode" {
			return code, nil
		}
	}
	return 0, errors.New(s.Message)
}

// dialStream connects to a URL that the daemon gave and speaks SPDY there.
func dialStream(ctx context.Context, link string) (httpstream.Connection, error) {
	u, err := url.Parse(link)
	if err != nil {
		return nil, fmt.Errorf("cannot use the stream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the stream: %w", err)
	}
	conn.SetDeadline(time.Now().Add(dialBound))
	if err := upgrade(conn, u); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return spdy.NewClientConnection(conn)
}

func upgrade(conn net.Conn, u *url.URL) error {
	req, err := http.NewRequest(http.MethodPost, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("X-Stream-Protocol-Version", remotecommand.StreamProtocolV4Name)
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("cannot ask for the stream: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(byteReader{conn}, 16), req)
	if err != nil {
		return fmt.Errorf("cannot ask for the stream: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("cannot ask for the stream: %s", resp.Status)
	}
	return nil
}

// byteReader reads one byte at a time: what follows the answer is SPDY's.
type byteReader struct{ net.Conn }

func (r byteReader) Read(b []byte) (int, error) { return r.Conn.Read(b[:min(1, len(b))]) }

// rawTerminal hands every key through, and returns what sets the terminal back.
// Without a terminal nothing happens.
func rawTerminal() (restore func()) {
	fd := int(os.Stdin.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	raw := *was // cfmakeraw, termios(3)
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(fd, unix.TCSETS, &raw) != nil {
		return func() {}
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, was) }
}

// sendSizes tells the size of our terminal, now and when it changes.
func sendSizes(ctx context.Context, to io.Writer) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	defer signal.Stop(changes)
	out := json.NewEncoder(to)
	for {
		size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ)
		if err != nil || out.Encode(map[string]uint16{"Width": size.Col, "Height": size.Row}) != nil {
			return
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
	}
}
