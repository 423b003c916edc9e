package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cri-box/cri-box/oci/keeper"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Attach connects a client to a running container's streams, any number of
// clients at a time. It returns when the container's output or the container has
// ended, or ctx does: then the client is detached, and the container goes on.
//
// A client gets what is written from now on, and holds the container up while it
// does not read, for ten seconds at most: then it is cut off. Its end of input is
// the container's only if that has stdin_once. A terminal is the container's
// choice, not the client's.
func (m *Manager) Attach(ctx context.Context, id string, client IO) error {
	c, err := m.Attachable(id)
	if err != nil {
		return err
	}
	e, err := m.containerEntry(c.ID)
	if err != nil {
		return err
	}
	a := &attachment{Manager: m, entry: e, ctr: c, client: client}
	closeInput, err := a.connectInput(ctx)
	if err != nil {
		return fmt.Errorf("cannot attach to container %s: %w", c.ID, err)
	}
	defer closeInput()
	if err := a.copyOutput(ctx); err != nil {
		return fmt.Errorf("cannot go on with the output of container %s: %w", c.ID, err)
	}
	return nil
}

// Attachable returns a container that is running.
func (m *Manager) Attachable(id string) (*Container, error) { return m.running("attach to", id) }

// Executable returns a container that is running.
func (m *Manager) Executable(id string) (*Container, error) { return m.running("exec in", id) }

func (m *Manager) running(verb, id string) (*Container, error) {
	c, err := m.Container(id)
	if err != nil {
		return nil, err
	}
	if c.State() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, fmt.Errorf("cannot %s container %s: it is %s: %w", verb, c.ID, stateName(c.State()), ErrState)
	}
	return c, nil
}

// An attachment is one client of a container's streams.
type attachment struct {
	*Manager
	entry  *containerEntry
	ctr    *Container
	client IO
	input  func() // passes on the client's input; nil once it does
}

func (a *attachment) tty() bool { return a.ctr.Config.Of.GetTty() }

// connectInput begins with the terminal's size, and prepares to pass on the
// client's input. Without stdin, or after its only client with stdin_once, there is
// nothing to connect.
func (a *attachment) connectInput(ctx context.Context) (end func(), err error) {
	name := keeper.FDStdin
	if a.tty() {
		name = keeper.FDTTY
	}
	f, err := a.cfg.Custody.FD(a.ctr.ID, name)
	if err != nil {
		return func() {}, nil
	}
	if a.tty() {
		go a.client.resize(f)
	}
	if a.client.Stdin == nil || !a.ctr.Config.Of.GetStdin() {
		return func() { f.Close() }, nil
	}
	a.input = func() {
		if err := copyIn(f, a.client.Stdin); err == nil {
			a.endInput(f)
		}
	}
	return func() {
		f.Close()
		if ctx.Err() != nil { // detached: that ends it as well
			a.endInput(f)
		}
	}, nil
}

// startInput passes on the client's input, once its output is connected: what
// the container answers to the first line belongs to this client too.
func (a *attachment) startInput() {
	if a.input != nil {
		go a.input()
		a.input = nil
	}
}

// endInput ends the container's stdin after one client, if it asked for that.
func (a *attachment) endInput(f *os.File) {
	if !a.ctr.Config.Of.GetStdinOnce() {
		return
	}
	if a.tty() {
		f.Write(endOfInput)
		return
	}
	f.Close()
	if err := a.cfg.Custody.CloseFDs(context.Background(), a.ctr.ID, keeper.FDStdin); err != nil && !errors.Is(err, keeper.ErrKeeperLost) {
		logger(a.ctr.ID).Warn("cannot end stdin", "err", err)
	}
}

// copyOutput passes on the container's output until its end. A keeper that dies
// takes the copies with it; the next one makes others.
func (a *attachment) copyOutput(ctx context.Context) error {
	for {
		lost, err := a.copyOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case lost || errors.Is(err, keeper.ErrKeeperLost):
			continue // Tap waits for the next one
		case err != nil && a.currentContainer(a.entry).State() == runtimeapi.ContainerState_CONTAINER_RUNNING:
			return err
		}
		return nil
	}
}

// copyOnce passes on what one keeper copies.
func (a *attachment) copyOnce(ctx context.Context) (lost bool, err error) {
	taps, outputs := map[string]*os.File{}, []*follower{}
	defer func() {
		for _, o := range outputs {
			o.f.Close()
		}
	}()
	for name, w := range map[string]io.Writer{keeper.FDStdout: a.client.Stdout, keeper.FDStderr: a.client.Stderr} {
		if w == nil || name == keeper.FDStderr && a.tty() {
			continue
		}
		read, write, err := os.Pipe()
		if err != nil {
			return false, err
		}
		defer write.Close()
		taps[name] = write
		outputs = append(outputs, follow(read, sendTo(w)))
	}
	if len(taps) == 0 { // input only
		a.startInput()
		select {
		case <-a.entry.exited:
		case <-ctx.Done():
		}
		return false, nil
	}
	keeperDead, err := a.cfg.Custody.Tap(ctx, a.ctr.ID, taps)
	if err != nil {
		return false, err
	}
	a.startInput()
	for _, write := range taps {
		write.Close()
	}
	for _, o := range outputs {
		select {
		case <-o.done:
		case <-ctx.Done():
			return false, nil
		}
	}
	return a.wasLost(ctx, keeperDead), nil
}

// wasLost tells whether copies ended because the keeper did, which is seen a
// moment after them: a keeper that answers did not.
func (a *attachment) wasLost(ctx context.Context, dead <-chan struct{}) bool {
	err := a.cfg.Custody.Ping(ctx)
	select {
	case <-dead:
		return true
	default:
		return errors.Is(err, keeper.ErrKeeperLost)
	}
}
