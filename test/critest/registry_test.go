package critest_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A registry is the test's own, on the node's 127.0.0.1.
type registry struct {
	*imagetest.Registry
	address string
}

func (n *node) registry() *registry {
	n.Helper()
	if n.served == nil {
		r := imagetest.NewRegistry()
		l := n.listen("127.0.0.1:0")
		go r.Serve(l)
		n.Cleanup(func() { r.Close() })
		n.served = &registry{r, l.Addr().String()}
	}
	return n.served
}

// push puts an image there and returns its reference.
func (r *registry) push(name string, img *imagetest.Image) string {
	r.Push(name, "latest", img)
	return fmt.Sprintf("%s/%s:latest", r.address, name)
}

// listen listens where the runtime is.
func (n *node) listen(address string) net.Listener {
	n.Helper()
	listen := func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	if n.private != nil {
		listen = n.private.Node.Listen
	}
	l, err := listen(address)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { l.Close() })
	return l
}

// an image of one file, which no other test's has the layer of.
func (n *node) small(file string) *imagetest.Image {
	return imagetest.New().File("/data/"+file, 0o644, []byte(n.Name()+n.dir)).Build()
}

func (n *node) imageStatus(ref string) *runtimeapi.Image {
	n.Helper()
	r, err := n.images.ImageStatus(n.ctx(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		n.Fatalf("cannot ask for %s: %v", ref, err)
	}
	return r.Image
}

func (n *node) removeImage(ref string) error {
	_, err := n.images.RemoveImage(n.ctx(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}

// TestCredentials: each form of them opens the registry that asks for it, the
// wrong ones do not, and what was let in once is not open to all.
func TestCredentials(t *testing.T) {
	clause(t, "IdentityToken is used to authenticate the user and get")
	n := newNode(t)
	const user, password, identity, bearer = "someone", "pass:word", "identity-1", "bearer-1"
	basic := func() { n.registry().BasicAuth(user, password) }
	token := func() { n.registry().TokenAuth(user, password, identity); n.registry().AcceptToken(bearer) }
	for _, c := range []struct {
		name    string
		protect func()
		auth    *runtimeapi.AuthConfig
		opens   bool
	}{
		{"none", basic, nil, false},
		{"wrong-password", basic, &runtimeapi.AuthConfig{Username: user, Password: "wrong"}, false},
		{"user-and-password", basic, &runtimeapi.AuthConfig{Username: user, Password: password}, true},
		{"auth", basic, &runtimeapi.AuthConfig{Auth: "c29tZW9uZTpwYXNzOndvcmQ="}, true},
		{"of-this-server", basic, &runtimeapi.AuthConfig{Username: user, Password: password, ServerAddress: n.registry().address}, true},
		{"of-another-server", basic, &runtimeapi.AuthConfig{Username: user, Password: password, ServerAddress: "registry.invalid"}, false},
		{"token-by-password", token, &runtimeapi.AuthConfig{Username: user, Password: password}, true},
		{"identity-token", token, &runtimeapi.AuthConfig{IdentityToken: identity}, true},
		{"wrong-identity-token", token, &runtimeapi.AuthConfig{IdentityToken: "wrong"}, false},
		{"registry-token", token, &runtimeapi.AuthConfig{RegistryToken: bearer}, true},
		{"wrong-registry-token", token, &runtimeapi.AuthConfig{RegistryToken: "wrong"}, false},
	} {
		c.protect()
		ref := n.registry().push(c.name, n.small(c.name))
		if id, err := n.tryPull(ref, c.auth); (err == nil) != c.opens {
			t.Errorf("%s: %v, want success %v", c.name, err, c.opens)
		} else if c.opens {
			if _, err := n.tryPull(ref, nil); err == nil {
				t.Errorf("%s: another pull without credentials succeeded", c.name)
			}
			n.removeImage(id)
		} else if text := status.Convert(err).Message(); strings.Contains(text, "pass:word") || strings.Contains(text, identity) || strings.Contains(text, bearer) {
			t.Errorf("%s: the error shows a secret: %s", c.name, text)
		}
	}
}

// TestPullNothing: what is not there is an error that names it.
func TestPullNothing(t *testing.T) {
	clause(t, "PullImage pulls an image with authentication config.")
	n := newNode(t)
	ref := n.registry().address + "/not/there:1"
	_, err := n.tryPull(ref, nil)
	refused(t, "an image that is not there", err, "not/there")
	_, err = n.tryPull("Not A Name", nil)
	refused(t, "what is no name", err)
	if code := status.Code(err); code == codes.Internal {
		t.Errorf("what is no name: code %s", code)
	}
}

// TestRemoveImage: by one of its names all go, and the next answers do not have
// it; one that is in use may go too.
func TestRemoveImage(t *testing.T) {
	clause(t, "The next call to ListImages, ImageStatus, ImageFsInfo will not return this image.")
	n := newNode(t)
	img := n.small("file")
	one, two := n.registry().push("one/image", img), n.registry().push("another/image", img)
	id := n.pull(one)
	equal(t, "id by another name", n.pull(two), id)
	tags := strings.Join(n.imageStatus(id).GetRepoTags(), " ")
	if !strings.Contains(tags, "one/image:latest") || !strings.Contains(tags, "another/image:latest") {
		t.Errorf("its tags are %s", tags)
	}
	for range 2 {
		if err := n.removeImage(one); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{one, two, id} {
		if left := n.imageStatus(ref); left != nil {
			t.Errorf("%s is still %v", ref, left)
		}
	}
	list, err := n.images.ListImages(n.ctx(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range list.Images {
		if left.Id == id {
			t.Errorf("it is still listed: %v", left)
		}
	}
}

// TestImageFsInfo: what is pulled is counted, with a time, on a file system that
// is there.
func TestImageFsInfo(t *testing.T) {
	clause(t, "Usage information may include images that were removed, but are still being cleaned up.")
	n := newNode(t)
	used := func() (bytes, inodes uint64) {
		r, err := n.images.ImageFsInfo(n.ctx(), &runtimeapi.ImageFsInfoRequest{})
		if err != nil || len(r.GetImageFilesystems()) == 0 {
			t.Fatalf("%v, %v", r, err)
		}
		fs := r.ImageFilesystems[0]
		if fs.Timestamp <= 0 || !isDir(fs.GetFsId().GetMountpoint()) {
			t.Errorf("it says %v", fs)
		}
		return fs.GetUsedBytes().GetValue(), fs.GetInodesUsed().GetValue()
	}
	const size = 8 << 20
	b := imagetest.New().File("/large", 0o644, noise(size))
	for i := range 100 {
		b.File(fmt.Sprint("/many/", i), 0o644, []byte(n.dir))
	}
	n.pull(n.registry().push("large", b.Build()))
	// Not by how much it grew: what was removed before may still be counted, and go now.
	eventually(t, "8 MiB and 100 files", func() bool {
		bytes, inodes := used()
		return bytes >= size && inodes >= 100
	})
}

// noise is what no layer's compression makes smaller.
func noise(size int) []byte {
	out := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(out)
	return out
}
