package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// ServeRemote serves a session to a client that speaks SPDY, and tells how it
// ended.
//
// The SPDY side of cri-streaming is not used, as with port-forward: once it has all
// streams, or has waited long enough for them, it leaves a goroutine behind for
// each one that comes after, and of a client that is gone it learns at the end of
// its wait only.
func ServeRemote(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run Session) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return // the client has been told
	}
	waiting, enough := context.WithTimeout(r.Context(), CreationTimeout)
	defer enough()
	c := &remote{arrived: make(chan httpstream.Stream), streams: map[string]httpstream.Stream{}}
	resizes := opts.TTY && (protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name)
	kinds := wanted(opts, resizes)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, c.receiver(waiting, len(kinds)))
	if conn == nil {
		return // likewise
	}
	defer conn.Close()
	conn.SetIdleTimeout(IdleTimeout)
	if !c.collect(waiting, conn, kinds) {
		return
	}
	enough()
	var resize <-chan remotecommand.TerminalSize
	if resizes {
		resize = sizes(r.Context(), c.streams[remotecommand.StreamTypeResize])
	}
	ended := run(c.streams[remotecommand.StreamTypeStdin], c.streams[remotecommand.StreamTypeStdout], c.streams[remotecommand.StreamTypeStderr], resize)
	c.tell(protocol, ended)
}

// wanted lists the streams that the client has to make.
func wanted(opts *remotecommand.Options, resizes bool) []string {
	kinds := []string{remotecommand.StreamTypeError}
	for _, one := range []struct {
		kind string
		used bool
	}{
		{remotecommand.StreamTypeStdin, opts.Stdin}, {remotecommand.StreamTypeStdout, opts.Stdout},
		{remotecommand.StreamTypeStderr, opts.Stderr}, {remotecommand.StreamTypeResize, resizes},
	} {
		if one.used {
			kinds = append(kinds, one.kind)
		}
	}
	return kinds
}

// remote is one SPDY connection of a remote command.
type remote struct {
	arrived chan httpstream.Stream
	taken   atomic.Int64                 // streams
	streams map[string]httpstream.Stream // by kind
}

// receiver is called by the library for each stream that the client makes, of which it
// takes so many. It must not block once nobody waits for streams.
func (c *remote) receiver(waiting context.Context, most int) httpstream.NewStreamHandler {
	return func(s httpstream.Stream, replied <-chan struct{}) error {
		if c.taken.Add(1) > int64(most) || waiting.Err() != nil {
			return errors.New("all streams of this session are there")
		}
		go func() {
			select {
			case <-replied: // from here on it is registered, and can be written to
			case <-waiting.Done():
				return
			}
			select {
			case c.arrived <- s:
			case <-waiting.Done():
			}
		}()
		return nil
	}
}

// collect waits for all streams of these kinds. It returns false when one is
// another's double or of no kind, when the client is gone, and when waiting ends.
func (c *remote) collect(waiting context.Context, conn httpstream.Connection, kinds []string) bool {
	for len(c.streams) < len(kinds) {
		select {
		case s := <-c.arrived:
			if c.add(s, kinds) != nil {
				s.Reset()
				return false
			}
		case <-conn.CloseChan():
			return false
		case <-waiting.Done():
			return false
		}
	}
	return true
}

func (c *remote) add(s httpstream.Stream, kinds []string) error {
	kind := s.Headers().Get(remotecommand.StreamType)
	for _, k := range kinds {
		if k == kind && c.streams[kind] == nil {
			c.streams[kind] = s
			return nil
		}
	}
	return fmt.Errorf("stream %q was not asked for, or is there already", kind)
}

// tell writes to the error stream: since v4 a status, before it the text of what
// went wrong.
func (c *remote) tell(protocol string, ended error) {
	out := c.streams[remotecommand.StreamTypeError]
	switch end := statusOf(ended); {
	case protocol == remotecommand.StreamProtocolV4Name:
		json.NewEncoder(out).Encode(end)
	case ended != nil:
		fmt.Fprint(out, end.Message)
	}
}
