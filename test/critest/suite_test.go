// Package critest_test asks a CRI runtime whether it does what the API says. It
// knows no runtime: each test quotes the sentence of api.proto that it asserts,
// and looks at the effect from inside a container, in /proc, or in the reply.
//
//	go test ./test/critest                                    a private cri-box
//	go test ./test/critest -endpoint unix:///run/x.sock       any other on this host
//
// The images come from a registry that the test serves on 127.0.0.1; with
// -endpoint the runtime has to take that one without TLS, or -image names another.
package critest_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	endpoint = flag.String("endpoint", "", "where the runtime listens, such as unix:///run/cri-box/cri-box.sock; empty: a private cri-box")
	imageRef = flag.String("image", "", "with -endpoint: an image with busybox and its applets in /bin, in place of the test's own")
	restart  = flag.String("restart", "", "with -endpoint: a shell command that restarts the runtime and returns")
)

func TestMain(m *testing.M) {
	flag.Parse()
	harness.Main(m)
}

// A node is the runtime under test.
type node struct {
	*testing.T
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	image   string // a reference that was pulled
	imageID string // what PullImage said
	dir     string // on the host, for volumes and logs
	pods    int
	private *harness.Instance // nil with -endpoint
	served  *registry         // nil before the first image of the test's own
}

// clause says which sentence of the API a test asserts; a failure shows it.
func clause(t *testing.T, text string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the API says: %s", text)
		}
	})
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{T: t, image: *imageRef, dir: t.TempDir()}
	socket := *endpoint
	if socket == "" {
		n.private = harness.New(t)
		socket = "unix://" + n.private.Socket()
	}
	n.connect(socket)
	if n.image == "" {
		n.image = n.registry().push("busybox", harness.TestImage(t, "busybox"))
	}
	n.imageID = n.pull(n.image)
	return n
}

func (n *node) connect(socket string) {
	n.Helper()
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { conn.Close() })
	n.conn, n.runtime, n.images = conn, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
}

func (n *node) tryPull(ref string, auth *runtimeapi.AuthConfig) (string, error) {
	resp, err := n.images.PullImage(n.ctx(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
	return resp.GetImageRef(), err
}

func (n *node) pull(ref string) (id string) {
	n.Helper()
	id, err := n.tryPull(ref, nil)
	if err != nil {
		n.Fatalf("cannot pull %s: %v", ref, err)
	}
	if n.private == nil && *imageRef == "" {
		n.Cleanup(func() { n.removeImage(id) }) // the next test has a registry of its own
	}
	return id
}

// ctx bounds one call.
func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Long(time.Minute))
	n.Cleanup(cancel)
	return ctx
}

type (
	podOption       = func(*runtimeapi.PodSandboxConfig)
	containerOption = func(*runtimeapi.ContainerConfig)
)

// cgroupParent is where the pods of another runtime are.
const cgroupParent = "/critest"

type pod struct {
	*node
	id     string
	config *runtimeapi.PodSandboxConfig
}

func (n *node) podConfig(opts ...podOption) *runtimeapi.PodSandboxConfig {
	n.pods++
	name := fmt.Sprintf("%s-%d", strings.ToLower(strings.ReplaceAll(n.Name(), "/", "-")), n.pods)
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "critest", Uid: fmt.Sprintf("%s-%d", name, time.Now().UnixNano())},
		LogDirectory: filepath.Join(n.dir, "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
	if n.private == nil {
		c.Linux.CgroupParent = cgroupParent // there are runtimes that measure no pod without it
	}
	for _, opt := range opts {
		opt(c)
	}
	return c
}

func (n *node) tryPod(c *runtimeapi.PodSandboxConfig) (*pod, error) {
	if err := os.MkdirAll(c.LogDirectory, 0o755); err != nil { // as the kubelet does
		return nil, err
	}
	resp, err := n.runtime.RunPodSandbox(n.ctx(), &runtimeapi.RunPodSandboxRequest{Config: c})
	if err != nil {
		return nil, err
	}
	p := &pod{n, resp.PodSandboxId, c}
	n.Cleanup(func() {
		n.runtime.StopPodSandbox(n.ctx(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
		n.runtime.RemovePodSandbox(n.ctx(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	})
	return p, nil
}

func (n *node) pod(opts ...podOption) *pod {
	n.Helper()
	p, err := n.tryPod(n.podConfig(opts...))
	if err != nil {
		n.Fatalf("cannot run the pod: %v", err)
	}
	return p
}

type container struct {
	*pod
	id     string
	config *runtimeapi.ContainerConfig
}

// sleeper runs until it is killed.
var sleeper = []string{"/bin/sleep", "1000000"}

// create makes a container that sleeps, unless an option changes that.
func (p *pod) create(opts ...containerOption) (*container, error) {
	p.pods++
	name := fmt.Sprintf("c%d", p.pods)
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: p.image, UserSpecifiedImage: p.image}, Command: sleeper, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions}},
	}
	for _, opt := range opts {
		opt(c)
	}
	resp, err := p.runtime.CreateContainer(p.ctx(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
	if err != nil {
		return nil, err
	}
	return &container{p, resp.ContainerId, c}, nil
}

func (c *container) start() error {
	_, err := c.runtime.StartContainer(c.ctx(), &runtimeapi.StartContainerRequest{ContainerId: c.id})
	return err
}

// try creates and starts.
func (p *pod) try(opts ...containerOption) (*container, error) {
	c, err := p.create(opts...)
	if err != nil {
		return nil, err
	}
	return c, c.start()
}

func (p *pod) run(opts ...containerOption) *container {
	p.Helper()
	c, err := p.try(opts...)
	if err != nil {
		p.Fatalf("cannot run the container: %v", err)
	}
	return c
}

// command is the option for what runs.
func command(args ...string) containerOption {
	return func(c *runtimeapi.ContainerConfig) { c.Command = args }
}

func script(text string) containerOption { return command("/bin/sh", "-c", text) }

func security(change func(*runtimeapi.LinuxContainerSecurityContext)) containerOption {
	return func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) }
}

// exec runs a shell script in the container.
func (c *container) exec(text string) (stdout string, code int32) {
	c.Helper()
	resp, err := c.runtime.ExecSync(c.ctx(), &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/bin/sh", "-c", text}, Timeout: 30})
	if err != nil {
		c.Fatalf("cannot exec %q: %v", text, err)
	}
	return strings.TrimSpace(string(resp.Stdout)), resp.ExitCode
}

// sh runs a script that has to succeed.
func (c *container) sh(text string) string {
	c.Helper()
	out, code := c.exec(text + " 2>&1")
	if code != 0 {
		c.Fatalf("%q ended with %d: %s", text, code, out)
	}
	return out
}

func (c *container) status() *runtimeapi.ContainerStatus {
	c.Helper()
	resp, err := c.runtime.ContainerStatus(c.ctx(), &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		c.Fatalf("cannot ask for the status: %v", err)
	}
	return resp.Status
}

func (c *container) stop() {
	c.Helper()
	if _, err := c.runtime.StopContainer(c.ctx(), &runtimeapi.StopContainerRequest{ContainerId: c.id}); err != nil {
		c.Fatalf("cannot stop: %v", err)
	}
}

// ended waits for the end, as the kubelet does.
func (c *container) ended() *runtimeapi.ContainerStatus {
	c.Helper()
	var s *runtimeapi.ContainerStatus
	eventually(c.T, "the container's end", func() bool {
		s = c.status()
		return s.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return s
}

// output is what an ended container wrote to stdout.
func (c *container) output() string {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(c.pod.config.LogDirectory, c.config.LogPath))
	if err != nil {
		c.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) == 4 && f[1] == "stdout" {
			out.WriteString(strings.TrimSuffix(f[3], map[string]string{"P": "\n"}[f[2]]))
		}
	}
	return out.String()
}

// look runs a script as the container's own process and returns its output.
func (p *pod) look(text string, opts ...containerOption) string {
	p.Helper()
	c := p.run(append(opts, script(text))...)
	if s := c.ended(); s.ExitCode != 0 {
		p.Fatalf("%q ended with %d: %s%s", text, s.ExitCode, c.output(), s.Message)
	}
	return strings.TrimSpace(c.output())
}

// eventually asks again and again, since the API has no call that waits.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(harness.Long(30 * time.Second))
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// refused asserts that what the API forbids is an error. That the error names what
// is wrong is asked of cri-box only.
func refused(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: it was accepted", what)
		return
	}
	if *endpoint != "" {
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: the error does not name %q: %v", what, w, err)
		}
	}
}

// strict is for requests that make no sense and that the API says nothing about:
// cri-box refuses them; others may do with them what they like.
func strict(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if *endpoint == "" {
		refused(t, what, err, words...)
	}
}

func hasCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: code %s (%v), want %s", what, got, err, want)
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
