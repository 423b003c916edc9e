package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// A Session runs a command or is attached to one, with the client's streams.
type Session func(in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error

// The channels of remote commands over WebSocket, in the order of their numbers.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	errorChannel
	resizeChannel
)

// maxResize bounds one change of a window's size, in bytes of JSON.
const maxResize = 4 << 10

// Ours returns what serves a session to this client, or nil if that is
// cri-streaming: by WebSocket up to v4.
func Ours(r *http.Request) func(http.ResponseWriter, *http.Request, *remotecommand.Options, Session) {
	switch {
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		return ServeChannels
	case wsstream.IsWebSocketRequest(r):
		return nil
	}
	return ServeRemote
}

// ServeChannels serves a session to a client that speaks v5.channel.k8s.io, in which
// it can end stdin and wait for the rest, and tells how it ended. cri-streaming
// knows what is older only, while such clients offer nothing else.
func ServeChannels(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run Session) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels(opts)},
	})
	conn.SetIdleTimeout(IdleTimeout)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return // the client has been told, or is gone
	}
	defer conn.Close()
	// An empty message tells the client that it is connected.
	greeting := errorChannel
	if opts.Stdout {
		greeting = stdoutChannel
	}
	streams[greeting].Write(nil)
	var resize <-chan remotecommand.TerminalSize
	if opts.TTY {
		resize = sizes(r.Context(), streams[resizeChannel])
	}
	ended := run(streams[stdinChannel], streams[stdoutChannel], streams[stderrChannel], resize)
	json.NewEncoder(streams[errorChannel]).Encode(statusOf(ended))
}

func channels(opts *remotecommand.Options) []wsstream.ChannelType {
	c := make([]wsstream.ChannelType, resizeChannel+1)
	for at, used := range map[int]struct {
		wanted bool
		as     wsstream.ChannelType
	}{
		stdinChannel:  {opts.Stdin, wsstream.ReadChannel},
		stdoutChannel: {opts.Stdout, wsstream.WriteChannel},
		stderrChannel: {opts.Stderr, wsstream.WriteChannel},
		errorChannel:  {true, wsstream.WriteChannel},
		resizeChannel: {opts.TTY, wsstream.ReadChannel},
	} {
		c[at] = wsstream.IgnoreChannel
		if used.wanted {
			c[at] = used.as
		}
	}
	return c
}

// sizes reads a window's sizes until the client says something else or is gone.
func sizes(ctx context.Context, from io.Reader) <-chan remotecommand.TerminalSize {
	out := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(out)
		bounded := &io.LimitedReader{R: from}
		decoder := json.NewDecoder(bounded)
		for {
			bounded.N = maxResize
			var size remotecommand.TerminalSize
			if decoder.Decode(&size) != nil {
				return
			}
			select {
			case out <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// status is what a client learns of the end, the part of metav1.Status that
// remote commands use.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(err error) status {
	var exit interface{ ExitStatus() int }
	switch {
	case err == nil:
		return status{Status: "Success"}
	case errors.As(err, &exit):
		return status{Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", err),
			Details: &details{[]cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}}}
	}
	return status{Status: "Failure", Reason: "InternalError", Message: err.Error(), Code: http.StatusInternalServerError}
}
