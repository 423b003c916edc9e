package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// registryAddress is where the benchmark's own registry listens, in each
// runtime's network namespace: 127.0.0.1 is taken without TLS by all.
const registryAddress = "127.0.0.1:5077"

// A registry serves the benchmark's images to the runtimes that it starts.
type registry struct {
	*imagetest.Registry
	pause string
	image string
}

// newRegistry holds an image with busybox, and a pause image made of the same.
func newRegistry() (*registry, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("cannot make the image: %w; hack/setup.sh test installs it", err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list busybox's applets: %w", err)
	}
	r := &registry{Registry: imagetest.NewRegistry(), pause: registryAddress + "/pause:3", image: registryAddress + "/busybox:latest"}
	push := func(repo, tag string, entrypoint ...string) {
		b := imagetest.New().File("/bin/busybox", 0o755, program).File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n"))
		for applet := range strings.FieldsSeq(string(list)) {
			if applet != "busybox" {
				b.Link("/bin/"+applet, "/bin/busybox")
			}
		}
		r.Push(repo, tag, b.Config(func(c *ocispec.ImageConfig) { c.Entrypoint = entrypoint }).Build())
	}
	push("busybox", "latest")
	push("pause", "3", "/bin/sleep", "1000000")
	return r, nil
}

// join makes a node's network namespace in which the registry answers.
func (r *registry) join() (*harness.Net, error) {
	node, _, err := harness.NewNode()
	if err != nil {
		return nil, err
	}
	l, err := node.Listen(registryAddress)
	if err != nil {
		return nil, err
	}
	go func(l net.Listener) { r.Serve(l) }(l)
	return node, nil
}

// shapes are images that stress different parts of a pull.
func (r *registry) shapes(scale int) map[string]string {
	rnd := rand.New(rand.NewPCG(1, 2))
	// Bytes as programs are: they shrink to about a half.
	content := func(n int) []byte {
		var b bytes.Buffer
		for b.Len() < n {
			word := make([]byte, 8)
			for i := range word {
				word[i] = byte(rnd.IntN(256))
			}
			b.Write(word)
			b.Write(word)
		}
		return b.Bytes()[:n]
	}
	small := imagetest.New()
	for n := range 100 * scale {
		small.File(fmt.Sprintf("/usr/lib/d%d/f%d", n/50, n), 0o644, content(2048))
	}
	large := imagetest.New()
	for n := range 4 {
		if n > 0 {
			large.Layer()
		}
		large.File(fmt.Sprintf("/opt/large%d", n), 0o644, content(scale<<18))
	}
	deep := imagetest.New()
	for n := range 120 {
		if n > 0 {
			deep.Layer()
		}
		deep.File(fmt.Sprintf("/layer/%d", n), 0o644, content(4096))
	}
	refs := map[string]string{}
	for name, b := range map[string]*imagetest.Builder{"small-files": small, "large-files": large, "120-layers": deep} {
		r.Push(name, "latest", b.Build())
		refs[name] = registryAddress + "/" + name + ":latest"
	}
	return refs
}

// pulls measures pull with unpacking, and removal, of each shape.
func pulls(ctx context.Context, b *bench) error {
	if b.registry == nil {
		return nil // the endpoints are others', and so are their registries
	}
	refs := b.registry.shapes(b.imageScale)
	for range b.rounds {
		for _, name := range []string{"small-files", "large-files", "120-layers"} {
			for _, e := range b.endpoints {
				if err := e.pullOnce(ctx, name, refs[name]); err != nil {
					return fmt.Errorf("%s: %w", e.name, err)
				}
			}
		}
	}
	return nil
}

func (e *endpoint) pullOnce(ctx context.Context, name, ref string) error {
	spec := &runtimeapi.ImageSpec{Image: ref}
	before := e.cpu()
	err := e.timed("pull "+name, func() error {
		_, err := e.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec})
		return err
	})
	if err != nil {
		return err
	}
	e.add("CPU ms, pull "+name, (e.cpu()-before)*1000)
	return e.timed("remove "+name, func() error {
		_, err := e.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec})
		return err
	})
}
