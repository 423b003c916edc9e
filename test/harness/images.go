package harness

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// registryAddress is where the instance's registry listens, inside the node's
// namespace.
const registryAddress = "127.0.0.1:5000"

// The users of the test images.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
	group  = "root:x:0:\nuser:x:1000:\n"
)

// images holds the test images by name; each is built once per test process.
var images struct {
	sync.Mutex
	byName map[string]*imagetest.Image
}

// TestImage returns a test image:
//
//	probe    /bin/probe and /bin/workload
//	busybox  /bin/busybox with all its applets, and /bin/workload
//
// Both have /etc/passwd and /etc/group with root and user (1000).
func TestImage(t testing.TB, name string) *imagetest.Image {
	t.Helper()
	images.Lock()
	defer images.Unlock()
	if img := images.byName[name]; img != nil {
		return img
	}
	b := imagetest.New().
		File("/etc/passwd", 0o644, []byte(passwd)).
		File("/etc/group", 0o644, []byte(group)).
		Dir("/root", 0o700).
		Dir("/tmp", 0o1777).
		File("/bin/workload", 0o755, read(t, Workload(t)))
	switch name {
	case "probe":
		b.File("/bin/probe", 0o755, read(t, Probe(t)))
	case "busybox":
		AddBusybox(t, b)
	default:
		t.Fatalf("there is no test image %q", name)
	}
	img := b.Config(func(c *ocispec.ImageConfig) { c.Cmd = []string{"/bin/" + name} }).Build()
	if images.byName == nil {
		images.byName = map[string]*imagetest.Image{}
	}
	images.byName[name] = img
	return img
}

// AddBusybox adds busybox with a hard link for each applet, as distributions'
// images have them.
func AddBusybox(t testing.TB, b *imagetest.Builder) {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("busybox is missing; hack/setup.sh test installs it: %v", err)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatalf("cannot list busybox's applets: %v", err)
	}
	b.File("/bin/busybox", 0o755, read(t, path))
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			b.Link("/bin/"+applet, "/bin/busybox")
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Registry returns the instance's registry, which listens in the node's
// namespace until the test ends.
func (i *Instance) Registry() *imagetest.Registry {
	i.T.Helper()
	if i.registry == nil {
		l, err := i.Node.Listen(registryAddress)
		if err != nil {
			i.T.Fatalf("cannot listen for the registry: %v", err)
		}
		i.registry = imagetest.NewRegistry()
		go i.registry.Serve(l)
		i.T.Cleanup(func() { i.registry.Close() })
	}
	return i.registry
}

// Push puts an image into the instance's registry and returns its reference.
func (i *Instance) Push(name string, img *imagetest.Image) string {
	i.T.Helper()
	i.Registry().Push(name, "latest", img)
	return registryAddress + "/" + name + ":latest"
}

// Image makes sure that the instance has the test image of that name, and
// returns its reference.
func (i *Instance) Image(name string) string {
	i.T.Helper()
	if ref := i.pulled[name]; ref != "" {
		return ref
	}
	ref := i.Push(name, TestImage(i.T, name))
	i.Pull(ref)
	i.pulled[name] = ref
	return ref
}

// Pull pulls an image and returns its id.
func (i *Instance) Pull(ref string) string {
	i.T.Helper()
	resp, err := i.Images.PullImage(i.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		i.T.Fatalf("cannot pull %s: %v\n%s", ref, err, i.logTail())
	}
	return resp.ImageRef
}
