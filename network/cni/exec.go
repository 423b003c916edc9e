package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/cri-box/cri-box/oci/waits"
	"golang.org/x/sys/unix"
)

const (
	resultLimit = 1 << 20  // bytes that a plugin may print
	errorLimit  = 16 << 10 // bytes of its stderr that are kept
	// killGrace is how long a killed plugin is waited for. One in D state does not
	// end; it is left behind, and reaped when it does.
	killGrace = time.Second
	busyPause = 50 * time.Millisecond // between two tries to start a binary that is being written
	busyTries = 20
)

// runner executes plugins: each in a process group of its own, which is killed
// when the context ends or when it prints too much. It implements invoke.Exec.
type runner struct {
	version.PluginDecoder
}

var _ invoke.Exec = (*runner)(nil)

// FindInPath implements invoke.Exec.
func (*runner) FindInPath(plugin string, dirs []string) (string, error) {
	return findPlugin(plugin, dirs)
}

// ExecPlugin implements invoke.Exec.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for tries := 1; ; tries++ {
		out, err := r.once(ctx, path, stdin, environ)
		if !errors.Is(err, unix.ETXTBSY) || tries == busyTries {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(busyPause):
		}
	}
}

func (r *runner) once(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdout := &limited{max: resultLimit, full: func() {
		cancel(fmt.Errorf("it printed more than %d bytes", resultLimit))
	}}
	stderr := &limited{max: errorLimit, full: func() {}}
	cmd := exec.Command(path)
	cmd.Env = slices.DeleteFunc(slices.Clone(environ), serviceManagers)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = killGrace // a child of the plugin may keep the pipes
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start plugin: %w", err)
	}
	defer waits.For(ctx, fmt.Sprintf("the plugin %s (%s, process %d)", path, verb(environ), cmd.Process.Pid),
		"see the plugin's own log; at its deadline it is killed, and the kubelet tries again")()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if why := context.Cause(ctx); why != nil {
			return nil, fmt.Errorf("plugin %s was ended: %w", path, why)
		}
		return outcome(path, err, stdout, stderr)
	case <-ctx.Done():
	}
	// The group's number stays taken until the leader is reaped, which only Wait does.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	select {
	case <-done:
	case <-time.After(2 * killGrace):
	}
	return nil, fmt.Errorf("plugin %s was killed: %w", path, context.Cause(ctx))
}

// verb is what a plugin is to do.
func verb(environ []string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "CNI_COMMAND="); ok {
			return v
		}
	}
	return "no command"
}

// serviceManagers matches variables that are the daemon's alone.
func serviceManagers(kv string) bool {
	return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "LISTEN_")
}

// outcome turns how a plugin ended into what it said.
func outcome(path string, err error, stdout, stderr *limited) ([]byte, error) {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return stdout.bytes(), nil
	}
	said := types.Error{}
	if json.Unmarshal(stdout.bytes(), &said) == nil && said.Msg != "" {
		return nil, &said
	}
	text := strings.TrimSpace(string(stderr.bytes()))
	if text == "" {
		text = strings.TrimSpace(string(stdout.bytes()))
	}
	return nil, fmt.Errorf("plugin %s failed (%w) and printed %q", path, err, text[:min(len(text), 1024)])
}
