package pods_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageStatus asks for one image; nil when there is none.
func imageStatus(t *testing.T, i *harness.Instance, ref string) *runtimeapi.Image {
	t.Helper()
	resp, err := i.Images.ImageStatus(i.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Image
}

func listImages(t *testing.T, i *harness.Instance) []*runtimeapi.Image {
	t.Helper()
	resp, err := i.Images.ListImages(i.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Images
}

func removeImage(t *testing.T, i *harness.Instance, ref string) {
	t.Helper()
	if _, err := i.Images.RemoveImage(i.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		t.Fatalf("cannot remove image %s: %v", ref, err)
	}
}

// small is an image of one file, which says what it is.
func small(text string) *imagetest.Image {
	return imagetest.New().File("/file", 0o644, []byte(text)).
		Config(func(c *ocispec.ImageConfig) { c.User, c.Cmd = "1000:1000", []string{"/file"} }).Build()
}

func TestImages(t *testing.T) {
	i := harness.New(t)
	img := small("one")
	ref := i.Push("small", img)
	if got := imageStatus(t, i, ref); got != nil {
		t.Fatalf("before it was pulled: %v", got)
	}
	id := i.Pull(ref)
	equal(t, "id", id, img.ID())
	equal(t, "id of a second pull", i.Pull(ref), id)
	got := imageStatus(t, i, ref)
	if got == nil {
		t.Fatal("no status after the pull")
	}
	equal(t, "id in the status", got.Id, id)
	equal(t, "tags", strings.Join(got.RepoTags, " "), ref)
	equal(t, "digests", strings.Join(got.RepoDigests, " "), strings.TrimSuffix(ref, ":latest")+"@"+img.Top.Digest.String())
	equal(t, "user", got.Uid.GetValue(), 1000)
	if got.Size == 0 {
		t.Error("its size is 0")
	}
	for _, name := range []string{id, strings.TrimPrefix(id, "sha256:"), got.RepoDigests[0]} {
		if s := imageStatus(t, i, name); s == nil || s.Id != id {
			t.Errorf("by %s: %v", name, s)
		}
	}
	equal(t, "images", len(listImages(t, i)), 1)

	fs, err := i.Images.ImageFsInfo(i.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(fs.ImageFilesystems) == 0 || len(fs.ContainerFilesystems) == 0 || fs.ImageFilesystems[0].UsedBytes.GetValue() == 0 {
		t.Errorf("ImageFsInfo: %v", fs)
	}

	i.Restart()
	equal(t, "images after a restart", len(listImages(t, i)), 1)
	for range 2 { // the second time it is gone already
		removeImage(t, i, ref)
	}
	equal(t, "images after removal", len(listImages(t, i)), 0)
	if got := imageStatus(t, i, id); got != nil {
		t.Errorf("after removal: %v", got)
	}
}

// TestRemoveImageTakesAllTags: as the API says since 1.36.
func TestRemoveImageTakesAllTags(t *testing.T) {
	i := harness.New(t)
	img := small("tagged")
	a, b := i.Push("one", img), i.Push("two", img)
	id := i.Pull(a)
	equal(t, "id by the other name", i.Pull(b), id)
	tags := slices.Sorted(slices.Values(imageStatus(t, i, id).RepoTags))
	equal(t, "tags", strings.Join(tags, " "), a+" "+b)
	removeImage(t, i, b)
	equal(t, "images", len(listImages(t, i)), 0)
}

// TestPullWhatIsNotThere: each kind of failure has its code, names the image or the
// field, begins with what the kubelet looks for, and leaves nothing.
func TestPullWhatIsNotThere(t *testing.T) {
	verifiers := t.TempDir()
	script := "#!/bin/sh\necho unsigned\n! echo $2 | grep -q /rejected:\n"
	if err := os.WriteFile(filepath.Join(verifiers, "sign"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	i := harness.New(t, harness.Args("--set", "image.verifier_dir="+verifiers))
	img := imagetest.New().File("/file", 0o644, []byte("x")).Build()
	rejected := i.Push("rejected", img)
	i.Registry().Push("secret", "latest", img)
	i.Registry().Break(imagetest.Fault{Path: "/secret/", Status: http.StatusForbidden})
	named := func(image string) *runtimeapi.PullImageRequest {
		return &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}}
	}
	bad := named("127.0.0.1:5000/app:1")
	bad.Auth = &runtimeapi.AuthConfig{Auth: "%%%"}
	for _, c := range []struct {
		request     *runtimeapi.PullImageRequest
		code        codes.Code
		begin, word string
	}{
		{named("127.0.0.1:5000/missing:latest"), codes.NotFound, "", "127.0.0.1:5000/missing"},
		{named("127.0.0.1:1/x:latest"), codes.Unknown, "RegistryUnavailable: ", "127.0.0.1:1/x"},
		{named(rejected), codes.Unknown, "SignatureValidationFailed: ", "unsigned"},
		{named("127.0.0.1:5000/secret:latest"), codes.PermissionDenied, "", "127.0.0.1:5000/secret"},
		{named("UPPER CASE"), codes.InvalidArgument, "", "UPPER CASE"},
		{named(""), codes.InvalidArgument, "", "image"},
		{&runtimeapi.PullImageRequest{}, codes.InvalidArgument, "", "image"},
		{&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "app", RuntimeHandler: "kata"}}, codes.InvalidArgument, "", "runtime_handler"},
		{bad, codes.InvalidArgument, "", "base64 of user:password"},
	} {
		_, err := i.Images.PullImage(i.Context(), c.request)
		text := status.Convert(err).Message()
		if status.Code(err) != c.code || !strings.HasPrefix(text, c.begin) || !strings.Contains(text, c.word) {
			t.Errorf("pulling %v: %v; wanted %v, %q", c.request, err, c.code, c.begin+"..."+c.word)
		}
	}
	equal(t, "images", len(listImages(t, i)), 0)
}

// TestPulledImageRuns: what a registry serves is what a container sees, also in
// two layers, and a removed image does not take a running container's files.
func TestPulledImageRuns(t *testing.T) {
	i := harness.New(t)
	base := harness.TestImage(t, busybox)
	img := imagetest.New().
		Entry(layerFile(t, base, "bin/busybox")).
		File("/etc/below", 0o644, []byte("below")).
		File("/etc/covered", 0o644, []byte("below")).
		File("/etc/gone", 0o644, []byte("below")).
		Layer().
		File("/etc/covered", 0o644, []byte("above")).
		Whiteout("/etc/gone").
		Config(func(c *ocispec.ImageConfig) {
			c.Entrypoint = []string{"/bin/busybox", "sh", "-c"}
			c.Cmd = []string{"busybox sleep 1000"}
			c.Env = []string{"FROM_IMAGE=yes", "PATH=/bin"}
			c.WorkingDir = "/work"
		}).Build()
	ref := i.Push("layers", img)
	i.Pull(ref)
	pod := i.RunPod()
	c := pod.Run("c", ref, nil)
	equal(t, "below", c.MustExec("/bin/busybox", "cat", "/etc/below"), "below")
	equal(t, "covered", c.MustExec("/bin/busybox", "cat", "/etc/covered"), "above")
	equal(t, "code for what the upper layer took away", exec(t, c, 0, "/bin/busybox", "test", "-e", "/etc/gone").Code, 1)
	equal(t, "environment", c.MustExec("/bin/busybox", "sh", "-c", "echo $FROM_IMAGE $PATH; pwd"), "yes /bin\n/work\n")
	equal(t, "image id in the status", c.Status().ImageId, img.ID())
	removeImage(t, i, ref)
	equal(t, "below, with the image gone", c.MustExec("/bin/busybox", "cat", "/etc/below"), "below")
}

// TestImport reads what `docker save` and skopeo write.
func TestImport(t *testing.T) {
	i := harness.New(t)
	for name, write := range map[string]func(*imagetest.Image, io.Writer, string) error{
		"oci":    func(img *imagetest.Image, w io.Writer, ref string) error { return img.OCILayoutTar(w, ref) },
		"docker": func(img *imagetest.Image, w io.Writer, ref string) error { return img.DockerArchive(w, ref) },
	} {
		t.Run(name, func(t *testing.T) {
			img, ref := small(name), "example.org/"+name+":v1"
			file := filepath.Join(t.TempDir(), "image.tar")
			f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(img, f, ref); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if out, err := i.Command("images", "import", "--state", i.State, file).CombinedOutput(); err != nil {
				t.Fatalf("cannot import: %v\n%s", err, out)
			}
			if got := imageStatus(t, i, ref); got == nil || got.Id != img.ID() {
				t.Errorf("after the import: %v", got)
			}
		})
	}
}
