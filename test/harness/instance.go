// Package harness starts cri-box for a test: in network namespaces of its own,
// with temporary state and root directories, and with a check at the end that
// nothing is left anywhere.
//
//	outside ──uplink──▶ node: serve, keeper, registry     test process: gRPC clients
//
// Tests that use it call Main from TestMain.
package harness

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// How long the harness waits for what should take milliseconds, on a busy
// machine and under the race detector.
var (
	readyTimeout = 30 * time.Second * slow
	stopTimeout  = 15 * time.Second * slow
	callTimeout  = 60 * time.Second * slow
	waitTimeout  = 30 * time.Second * slow
)

// slow is how many times longer an emulated machine (hack/vm) takes.
var slow = func() time.Duration {
	n, err := strconv.Atoi(os.Getenv("CRIBOX_SLOW"))
	if err != nil {
		return 1
	}
	return time.Duration(n)
}()

// Long is a bound that a test gives to what it does by itself: d, and longer on an
// emulated machine.
func Long(d time.Duration) time.Duration { return d * slow }

// An Instance is one running cri-box with everything around it.
type Instance struct {
	T testing.TB
	// Dir holds State, Root and what tests put beside them, such as log directories.
	Dir, State, Root string
	// Node is where serve runs, Outside the rest of the world.
	Node, Outside *Net
	// Name is the prefix of everything that the instance makes on the host.
	Name string
	// Build is the product's path from the next start on, "" for CriBox's.
	Build string

	CRI

	proc  *process
	args  []string   // of serve, beside the directories
	env   []string   // of serve, beside the test's own
	files []*os.File // that serve inherits, from descriptor 3 on
	start *nodeState // links, routes, rules and tables before the first start
	made
}

// made is what a test has made so far.
type made struct {
	ids      []string // of every pod and container
	pods     int      // for their names
	registry *imagetest.Registry
	pulled   map[string]string // test images, by name to reference
}

// CRI is the API as the kubelet uses it. It dials anew at each start of serve.
type CRI struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
}

// An Option changes how serve is started.
type Option func(*Instance)

// Args adds arguments to serve's command line.
func Args(args ...string) Option {
	return func(i *Instance) { i.args = append(i.args, args...) }
}

// Env adds variables to serve's environment.
func Env(vars ...string) Option {
	return func(i *Instance) { i.env = append(i.env, vars...) }
}

// Inherit gives serve open descriptors, from 3 on, as a careless parent does.
func Inherit(files ...*os.File) Option {
	return func(i *Instance) { i.files = append(i.files, files...) }
}

// Config gives serve a configuration file with that text.
func Config(text string) Option {
	return func(i *Instance) {
		path := filepath.Join(i.Dir, "config.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			i.T.Fatal(err)
		}
		i.args = append(i.args, "--config", path)
	}
}

// process is a running serve.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has been waited for
}

// New starts an instance; when the test ends it removes its pods, stops it and
// checks that nothing is left.
func New(t testing.TB, opts ...Option) *Instance {
	t.Helper()
	i := prepare(t)
	for _, opt := range opts {
		opt(i)
	}
	t.Cleanup(i.finish)
	i.Start()
	return i
}

// Bare makes an instance without cri-box, for a test that serves the CRI at
// Socket by other means, and then calls Connect.
func Bare(t testing.TB) *Instance {
	t.Helper()
	return prepare(t)
}

// Connect makes the API's clients.
func (i *Instance) Connect() {
	i.T.Helper()
	i.dial()
	i.T.Cleanup(func() { i.conn.Close() })
}

// Answers says whether a runtime is at the socket.
func (i *Instance) Answers() bool {
	_, err := i.Runtime.Version(i.Context(), &runtimeapi.VersionRequest{})
	return err == nil
}

// prepare makes everything but the process.
func prepare(t testing.TB) *Instance {
	t.Helper()
	// Short, for a unix socket's path ends at 107 bytes; t.TempDir has the test's name in it.
	dir, err := os.MkdirTemp("", "cb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	i := &Instance{T: t, Dir: dir, State: filepath.Join(dir, "state"), Root: filepath.Join(dir, "root")}
	i.Name = instanceName(i.State)
	i.pulled = map[string]string{}
	if i.Node, i.Outside, err = NewNode(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Node.Close(); i.Outside.Close() })
	if i.start, err = readNode(i.Node); err != nil {
		t.Fatal(err)
	}
	return i
}

// instanceName is the contract: what a state directory's instance calls itself.
func instanceName(state string) string {
	if state == "/run/cri-box" {
		return "cri-box"
	}
	sum := sha256.Sum256([]byte(state))
	return "cri-box-" + hex.EncodeToString(sum[:])[:4]
}

// Socket is where the CRI is served.
func (i *Instance) Socket() string { return filepath.Join(i.State, "cri-box.sock") }

// Log is the file with what serve wrote, over all its starts.
func (i *Instance) Log() string { return filepath.Join(i.Dir, "serve.log") }

// Start starts serve in the node's namespace and returns once it is ready.
func (i *Instance) Start() {
	i.T.Helper()
	notify, err := listenNotify(i.Dir)
	if err != nil {
		i.T.Fatal(err)
	}
	if err := i.launch(notify); err != nil {
		notify.Close()
		i.T.Fatalf("cannot start serve: %v", err)
	}
	if err := notify.wait(i.proc.ended, readyTimeout); err != nil {
		i.T.Fatalf("serve is not ready: %v\n%s", err, i.logTail())
	}
	i.dial()
}

// Command returns the product's command with these arguments. i.Node.Do runs it
// in the node's namespace.
func (i *Instance) Command(args ...string) *exec.Cmd {
	i.T.Helper()
	cmd := exec.Command(cmp.Or(i.Build, CriBox(i.T)), args...)
	cmd.Env = append(os.Environ(), i.env...)
	return cmd
}

// Serve returns the command that starts serve on the instance's directories.
func (i *Instance) Serve(args ...string) *exec.Cmd {
	i.T.Helper()
	return i.Command(append([]string{"serve", "--root", i.Root, "--state", i.State}, args...)...)
}

func (i *Instance) launch(notify *notifier) error {
	log, err := os.OpenFile(i.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The machine's own CNI configuration is not for the tests.
	usual := []string{"--log-level", "debug", "--set", "network.cni.conf_dir=" + filepath.Join(i.State, "cni.d")}
	cmd := i.Serve(append(usual, i.args...)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify.path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = i.files
	if err := i.Node.Do(cmd.Start); err != nil {
		return err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait() // the test asks cmd.ProcessState
		notify.Close()
		close(p.ended)
	}()
	i.proc = p
	return nil
}

func (i *Instance) dial() {
	i.T.Helper()
	conn := i.connect()
	i.CRI = CRI{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn}
}

// Dial is a connection of the test's own, which ends with it. It tries again
// within milliseconds where serve is not up yet.
func (i *Instance) Dial() *grpc.ClientConn {
	conn := i.connect(grpc.WithConnectParams(grpc.ConnectParams{
		MinConnectTimeout: readyTimeout, // else that is the backoff's too, which a slow machine exceeds
		Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1, MaxDelay: 2 * time.Millisecond}}))
	i.T.Cleanup(func() { conn.Close() })
	return conn
}

func (i *Instance) connect(opts ...grpc.DialOption) *grpc.ClientConn {
	i.T.Helper()
	conn, err := grpc.NewClient("unix://"+i.Socket(), append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))...)
	if err != nil {
		i.T.Fatal(err)
	}
	return conn
}

// PID is serve's process id.
func (i *Instance) PID() int { return i.proc.cmd.Process.Pid }

// Running says whether serve runs.
func (i *Instance) Running() bool {
	if i.proc == nil {
		return false
	}
	select {
	case <-i.proc.ended:
		return false
	default:
		return true
	}
}

// Stop ends serve as systemd does and returns its state.
func (i *Instance) Stop() *os.ProcessState {
	i.T.Helper()
	return i.end(syscall.SIGTERM)
}

// Kill ends serve with SIGKILL.
func (i *Instance) Kill() {
	i.T.Helper()
	i.end(syscall.SIGKILL)
}

// Restart stops and starts serve.
func (i *Instance) Restart() {
	i.T.Helper()
	i.Stop()
	i.Start()
}

func (i *Instance) end(sig syscall.Signal) *os.ProcessState {
	i.T.Helper()
	if i.conn != nil {
		i.conn.Close()
	}
	i.proc.cmd.Process.Signal(sig)
	select {
	case <-i.proc.ended:
	case <-time.After(stopTimeout):
		i.T.Errorf("serve did not end within %v of %v\n%s", stopTimeout, sig, i.logTail())
		i.proc.cmd.Process.Kill()
		<-i.proc.ended
	}
	return i.proc.cmd.ProcessState
}

// Context bounds one call; it ends with the test.
func (i *Instance) Context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	i.T.Cleanup(cancel)
	return ctx
}

// Wait repeats cond every few milliseconds until it is true, for what no event
// announces; it fails the test after half a minute.
func (i *Instance) Wait(what string, cond func() bool) {
	i.T.Helper()
	if !within(waitTimeout, cond) {
		i.T.Fatalf("waited %v in vain for %s\n%s", waitTimeout, what, i.logTail())
	}
}

func within(d time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(d)
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// logTail is the end of serve's and keeper's logs, for a message.
func (i *Instance) logTail() string {
	var b strings.Builder
	for _, name := range []string{i.Log(), filepath.Join(i.State, "keeper.log")} {
		text, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "--- the end of %s:\n%s\n", filepath.Base(name), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return b.String()
}
