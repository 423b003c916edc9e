package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/keeper"
)

// ExecStream runs a command in a running container with a client's streams, and
// returns its exit code. A command that cannot be executed ends with 126 or 127
// and says why.
//
// When ctx ends, the client is gone. A command with a terminal is hung up by the
// kernel, as its session has no terminal any more. One without loses its streams
// and gets the same signal, SIGHUP, to its process group: what has to outlive a
// lost connection is started under nohup or setsid, as over ssh -t. Nothing waits
// for a command that ignores it; it ends with the container at last.
func (m *Manager) ExecStream(ctx context.Context, id string, cmd []string, client IO) (int, error) {
	s, ended, err := m.Exec(ctx, id, cmd, oci.Streams{Stdin: client.Stdin != nil, Stdout: client.Stdout != nil,
		Stderr: client.Stderr != nil, TTY: client.TTY})
	var call *keeper.CallError
	if errors.As(err, &call) && call.Execve {
		client.complain(call)
		return cannotRun(call), nil
	}
	if err != nil {
		return 0, err
	}
	outputs := client.connect(s)
	select {
	case exit := <-ended:
		if client.Ending != nil {
			client.Ending()
		}
		for _, o := range outputs {
			if s.TTY != nil {
				o.finishTTY(ctx)
			} else {
				o.finish(ctx)
			}
		}
		if err := s.Close(); err != nil {
			logger(id).Warn("cannot clean up after a command", "err", err)
		}
		return exit.Code, nil
	case <-ctx.Done():
		hangUp(id, s, ended)
		return 0, fmt.Errorf("cannot go on with the command: %w", context.Cause(ctx))
	}
}

// connect starts to copy between a client and a command.
func (c IO) connect(s *oci.Session) []*follower {
	var outputs []*follower
	for _, o := range []struct {
		f *os.File
		w io.Writer
	}{{s.Stdout, c.Stdout}, {s.Stderr, c.Stderr}, {s.TTY, c.Stdout}} {
		if o.f != nil {
			outputs = append(outputs, follow(o.f, sendTo(o.w)))
		}
	}
	switch {
	case s.TTY != nil:
		go c.resize(s.TTY)
		if c.Stdin != nil {
			go func() {
				if copyIn(s.TTY, c.Stdin) == nil {
					s.TTY.Write(endOfInput)
				}
			}()
		}
	case s.Stdin != nil:
		go func() {
			copyIn(s.Stdin, c.Stdin)
			s.Stdin.Close()
		}()
	}
	return outputs
}

// sendTo is a follower's put that writes; nil drops.
func sendTo(w io.Writer) func([]byte) {
	if w == nil {
		return func([]byte) {}
	}
	return func(b []byte) { w.Write(b) } // it fails when the client is gone: then ctx ends
}

// complain says why a command could not be executed, as a shell would.
func (c IO) complain(err error) {
	w := c.Stderr
	if w == nil {
		w = c.Stdout
	}
	if w == nil {
		return
	}
	end := "\n"
	if c.TTY {
		end = "\r\n"
	}
	io.WriteString(w, err.Error()+end)
}

// hangUp takes a command's client away. Its group is removed when it ends.
func hangUp(id string, s *oci.Session, ended <-chan keeper.Exit) {
	if err := s.HangUp(); err != nil {
		logger(id).Warn("cannot hang up a command", "err", err)
	}
	go func() {
		<-ended
		if err := s.Close(); err != nil {
			logger(id).Warn("cannot clean up after a command", "err", err)
		}
	}()
}
