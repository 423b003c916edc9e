// Package verify asks the node's image verifiers whether an image may be pulled.
// They are programs, called as containerd calls its own (its documentation
// "Image Verification"), so that those who have some can go on using them:
//
//	VERIFIER -name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json
//
// with the descriptor as JSON on standard input. Exit code 0 accepts the image;
// standard output is the reason, in either case.
package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	// Bound is how long one verifier may take, as in containerd.
	Bound = 10 * time.Second
	// maxVerifiers is how many there may be, as in containerd. More are refused:
	// one that is not asked accepts nothing.
	maxVerifiers = 10
	// maxReason is how much a verifier may say, in bytes.
	maxReason = 4 << 10
	// killGrace is how long the pipes of a verifier that was killed are waited
	// for: a child of it may hold them.
	killGrace = time.Second
)

// All asks every verifier in dir, in the order of their names, and returns nil if
// all of them accept the image. Without a directory nobody is asked.
func All(ctx context.Context, dir, name string, desc ocispec.Descriptor) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list image verifiers: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") })
	if len(entries) > maxVerifiers {
		return fmt.Errorf("%s has %d image verifiers, more than %d are not asked", dir, len(entries), maxVerifiers)
	}
	for _, e := range entries {
		if err := one(ctx, filepath.Join(dir, e.Name()), name, desc); err != nil {
			return fmt.Errorf("image verifier %s: %w", e.Name(), err)
		}
	}
	return nil
}

// one runs one verifier, in a process group of its own.
func one(ctx context.Context, path, name string, desc ocispec.Descriptor) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Bound, fmt.Errorf("it took longer than %v", Bound))
	defer cancel()
	input, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	reason := &beginning{}
	cmd := exec.CommandContext(ctx, path, "-name", name, "-digest", desc.Digest.String(), "-stdin-media-type", ocispec.MediaTypeDescriptor)
	cmd.Stdin, cmd.Stdout = bytes.NewReader(input), reason
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "LISTEN_") // the daemon's alone
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = killGrace
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return fmt.Errorf("%w, %q", err, bytes.TrimSpace(reason.text))
}

// beginning keeps what a verifier says first. Writing never fails, so that it
// does not die of SIGPIPE.
type beginning struct{ text []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxReason-len(b.text))]...)
	return len(p), nil
}
