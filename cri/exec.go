package cri

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cri-box/cri-box/cri/stream"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Exec returns the URL at which a command is run in a container, once, with the
// client's streams.
func (s *Server) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkStreams(r); err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 {
		return nil, missing("cmd")
	}
	c, err := s.Sandboxes.Executable(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.Streams.Offer("exec", func(w http.ResponseWriter, req *http.Request) {
		client := session{s.Sandboxes, req, c.ID, r.GetCmd(), r}
		if serve := stream.Ours(req); serve != nil {
			serve(w, req, streamOptions(r), client.exec)
			return
		}
		remotecommand.ServeExec(w, req, client, "", "", "", nil, streamOptions(r),
			stream.IdleTimeout, stream.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

// streamRequest is what exec and attach have in common.
type streamRequest interface {
	GetContainerId() string
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}

func checkStreams(r streamRequest) error {
	switch {
	case r.GetContainerId() == "":
		return missing("container_id")
	case r.GetTty() && r.GetStderr():
		return fmt.Errorf("stderr cannot be had with tty: a terminal has one output, which is stdout: %w", spec.ErrInvalid)
	case !r.GetStdin() && !r.GetStdout() && !r.GetStderr():
		return fmt.Errorf("none of stdin, stdout and stderr is set; one has to be: %w", spec.ErrInvalid)
	}
	return nil
}

func streamOptions(r streamRequest) *remotecommand.Options {
	return &remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
}

// A session is one client's use of a URL. The streaming library calls it with
// much that it knows already.
type session struct {
	sandboxes *sandbox.Manager
	request   *http.Request // its context ends when the client is gone
	container string
	cmd       []string
	want      streamRequest
}

// ExecInContainer implements remotecommand.Executor.
func (s session) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser,
	_ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return s.exec(in, out, errOut, resize)
}

func (s session) exec(in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	code, err := s.sandboxes.ExecStream(s.request.Context(), s.container, s.cmd, s.io(in, out, errOut, resize))
	s.abandon()
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

// io gives what was asked for; a WebSocket has a channel for the rest, too.
func (s session) io(in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) sandbox.IO {
	c := sandbox.IO{TTY: s.want.GetTty(), Ending: func() { stream.Ending(s.request) }}
	if s.want.GetStdin() {
		c.Stdin = in
	}
	if s.want.GetStdout() {
		c.Stdout = out
	}
	if s.want.GetStderr() {
		c.Stderr = errOut
	}
	if resize != nil {
		c.Resize = func() (sandbox.Size, bool) {
			size, ok := <-resize // the library closes it with the connection
			return sandbox.Size{Width: size.Width, Height: size.Height}, ok
		}
	}
	return c
}

// abandon ends the handler of a client that is gone: the library would tell it
// how the session went, and wait for ever for its answers.
func (s session) abandon() {
	if s.request.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	stream.Ending(s.request)
}

// exitError is a command's exit code in the form that the library knows
// (k8s.io/utils/exec.ExitError).
type exitError int

func (e exitError) Error() string   { return "exit code " + strconv.Itoa(int(e)) }
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }
