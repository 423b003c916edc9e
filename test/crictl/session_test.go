// Package crictl_test runs crictl, the command line of the CRI, against an
// instance: every verb that it has. The transcript in docs/crictl.md is what this
// test printed:
//
//	CRICTL=/path/to/crictl go test ./test/crictl -update
package crictl_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
)

const (
	// releases is where the binary comes from.
	releases = "https://github.com/kubernetes-sigs/cri-tools/releases"
	docFile  = "../../docs/crictl.md"
	// bound is how long one command may take.
	bound = 60 * time.Second
)

var update = flag.Bool("update", false, "write docs/crictl.md anew")

func TestMain(m *testing.M) { harness.Main(m) }

// A session is one terminal in which crictl is used.
type session struct {
	*harness.Instance
	binary string
	dir    string // where the commands run: with the files that they name
	doc    strings.Builder
}

func newSession(t *testing.T) *session {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("CRICTL"), "crictl"))
	if err != nil {
		t.Fatalf("There is no crictl: %v. Its binary is part of each release at %s; name it in CRICTL or put it on PATH.", err, releases)
	}
	s := &session{Instance: harness.New(t, harness.Args("--log-level", "info")), binary: path}
	if s.dir, err = os.MkdirTemp("", "work"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	if err := os.Mkdir(filepath.Join(s.dir, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.config(), []byte("runtime-endpoint: unix://"+s.Socket()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// config is what /etc/crictl.yaml is on a node.
func (s *session) config() string { return filepath.Join(s.dir, "crictl.yaml") }

// file writes a file that commands name, and shows it.
func (s *session) file(name, text string) {
	s.T.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.T.Fatal(err)
	}
	s.show("cat "+name, text)
}

func (s *session) say(text string) { fmt.Fprintf(&s.doc, "%s\n\n", text) }

// controls are the codes that move a terminal's cursor (ECMA-48, 5.4).
var controls = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

func (s *session) show(command, output string) {
	output = controls.ReplaceAllString(output, "")
	fmt.Fprintf(&s.doc, "    $ %s\n", command)
	for line := range strings.Lines(strings.TrimRight(output, "\n")) {
		fmt.Fprintf(&s.doc, "    %s", strings.TrimRight(line, " \t\r\n")+"\n")
	}
	s.doc.WriteString("\n")
}

func (s *session) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CRI_CONFIG_FILE="+s.config())
	return cmd
}

// try runs a command in the node's namespace and returns all that it printed.
func (s *session) try(args ...string) (string, int) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Node.Do(cmd.Start); err != nil {
		s.T.Fatal(err)
	}
	cmd.Wait() // the exit code says it
	return out.String(), cmd.ProcessState.ExitCode()
}

// quiet runs a command that must go well, and does not show it.
func (s *session) quiet(args ...string) string {
	s.T.Helper()
	out, code := s.try(args...)
	if code != 0 {
		s.T.Fatalf("crictl %s: code %d\n%s", line(args), code, out)
	}
	return out
}

// run runs a command that must go well and print certain texts, shows it, and
// returns the last line, which is an id where there is one.
func (s *session) run(want []string, args ...string) string {
	s.T.Helper()
	out := s.quiet(args...)
	s.expect(out, want, args)
	s.show("crictl "+line(args), out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

func (s *session) expect(out string, want, args []string) {
	s.T.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.T.Errorf("crictl %s: no %q in\n%s", line(args), w, out)
		}
	}
}

// line is a command as a person types it.
func line(args []string) string {
	var words []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " ;$&|{}'\"") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// background is a command that goes on until it is ended.
type background struct {
	s    *session
	args []string
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
}

func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *background) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func (s *session) start(args ...string) *background {
	s.T.Helper()
	b := &background{s: s, args: args}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	s.T.Cleanup(cancel)
	b.cmd = s.command(ctx, args...)
	b.cmd.Stdout, b.cmd.Stderr = b, b
	if err := s.Node.Do(b.cmd.Start); err != nil {
		s.T.Fatal(err)
	}
	return b
}

// until waits for what the command prints.
func (b *background) until(want string) {
	b.s.T.Helper()
	b.s.Wait(fmt.Sprintf("%q from crictl %s", want, line(b.args)), func() bool { return strings.Contains(b.text(), want) })
}

// end interrupts the command, as Ctrl-C does, and shows it.
func (b *background) end() {
	b.s.T.Helper()
	b.cmd.Process.Signal(unix.SIGINT)
	b.cmd.Wait() // interrupted
	b.s.show("crictl "+line(b.args), b.text()+"^C")
}

// A terminal is a command with one of its own.
type terminal struct {
	*background
	master *os.File
	ended  chan struct{}
}

func (s *session) terminal(args ...string) *terminal {
	s.T.Helper()
	master, slave, err := harness.OpenPTY()
	if err != nil {
		s.T.Fatal(err)
	}
	defer slave.Close()
	t := &terminal{&background{s: s, args: args}, master, make(chan struct{})}
	s.T.Cleanup(func() { master.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	s.T.Cleanup(cancel)
	t.cmd = s.command(ctx, args...)
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = slave, slave, slave
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.Node.Do(t.cmd.Start); err != nil {
		s.T.Fatal(err)
	}
	go func() {
		defer close(t.ended)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf) // EIO when the last one closes the other side
			t.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return t
}

func (t *terminal) enter(text string) {
	t.s.T.Helper()
	if _, err := t.master.WriteString(text + "\n"); err != nil {
		t.s.T.Fatal(err)
	}
}

// wait waits for the command's end, shows it and returns its code.
func (t *terminal) wait() int {
	t.s.T.Helper()
	<-t.ended
	t.cmd.Wait() // the code says it
	t.s.show("crictl "+line(t.args), strings.ReplaceAll(t.text(), "\r\n", "\n"))
	return t.cmd.ProcessState.ExitCode()
}

// finish writes the transcript, or nothing.
func (s *session) finish(head string) {
	s.T.Helper()
	if !*update || s.T.Failed() {
		return
	}
	if err := os.WriteFile(docFile, []byte(head+strings.TrimRight(s.doc.String(), "\n")+"\n"), 0o644); err != nil {
		s.T.Fatal(err)
	}
}
