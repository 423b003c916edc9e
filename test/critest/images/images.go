// Package images makes the images that upstream's critest names, from Debian's
// busybox and nginx and from programs of this tree: nothing is downloaded.
//
// The names and what has to be in the images are upstream's: pkg/validate and
// images/ of kubernetes-sigs/cri-tools.
package images

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
)

// Hosts are the registries that upstream names images of. Their repositories
// have different names, so one registry can stand for all of them.
var Hosts = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"}

// staging is the repository of the images that upstream builds itself.
const staging = "k8s-staging-cri-tools/"

// The users of busybox's own image, as far as anything asks for them.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
		"bin:x:2:2:bin:/bin:/bin/false\n" +
		"www-data:x:33:33:www-data:/var/www:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/home:/bin/false\n"
	group = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwww-data:x:33:\nnogroup:x:65534:\n"
)

// A Named image is one with its place in the registry.
type Named struct {
	Repository, Tag string
	Image           *imagetest.Image
}

// All makes every image. They are the same bytes each time on one machine.
func All(t testing.TB) []Named {
	t.Helper()
	busybox, pause := userland(t).Build(), pauseImage(t)
	all := []Named{
		{"e2e-test-images/busybox", "1.29-2", busybox},
		{"library/busybox", "latest", busybox},
		{"e2e-test-images/nginx", "1.14-2", nginx(t, 80)},
		{"e2e-test-images/httpd", "2.4.39-4", httpd(t)},
		{"e2e-test-images/nonewprivs", "1.3", nonewprivs(t)},
		{"pause", "3.9", pause},
		{"pause", "3.10", pause},
		{staging + "hostnet-nginx-" + runtime.GOARCH, "latest", nginx(t, 12003)},
		{staging + "test-image-predefined-group", "latest", predefinedGroup(t)},
		{staging + "test-image-digest", "latest", digestImage()},
	}
	for name, user := range map[string]string{"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"} {
		all = append(all, Named{staging + "test-image-user-" + name, "latest", withUser(userland(t), user).Build()})
	}
	for _, name := range []string{"1", "2", "3", "latest"} {
		all = append(all, Named{staging + "test-image-" + name, "latest", marked(t, "test-image-"+name)})
	}
	same := marked(t, "same-image")
	for _, tag := range []string{"1", "2", "3"} {
		all = append(all, Named{staging + "test-image-tags", tag, same})
	}
	for _, tag := range []string{"test", "all"} {
		all = append(all, Named{staging + "test-image-tag", tag, marked(t, tag)})
	}
	return all
}

// digestImage is pulled by its digest and never run. It holds nothing of this
// machine, so the digest is the same on all.
func digestImage() *imagetest.Image {
	var each []*imagetest.Image
	for _, arch := range []string{"amd64", "arm64"} {
		b := imagetest.New().File("/test-image-digest", 0o644, nil)
		each = append(each, b.Platform(ocispec.Platform{OS: "linux", Architecture: arch}).Build())
	}
	return imagetest.Index(each...)
}

// DigestName is the name, with a digest, of the image that upstream names so.
func DigestName() string {
	return "gcr.io/" + staging + "test-image-digest@" + digestImage().Top.Digest.String()
}

// userland begins an image like busybox's own: the applets are hard links in /bin.
func userland(t testing.TB) *imagetest.Builder {
	t.Helper()
	b := imagetest.New().
		File("/etc/passwd", 0o644, []byte(passwd)).
		File("/etc/group", 0o644, []byte(group)).
		Dir("/root", 0o700).
		Dir("/home", 0o755).
		Dir("/tmp", 0o1777).
		Dir("/var/run", 0o755)
	harness.AddBusybox(t, b)
	b.File("/bin/pgrep", 0o755, applets(t)).Link("/bin/ipcs", "/bin/pgrep")
	return shell(t, b).Config(command("sh"))
}

// shellPath is where hack/setup.sh unpacks Debian's package busybox.
const shellPath = "bin/busybox/bin/busybox"

// shell replaces the static busybox's shell, which runs its own applets whatever
// lies on PATH, by the one of Debian's package busybox, which looks there:
// upstream masks /bin/ls and expects that sh cannot run it.
func shell(t testing.TB, b *imagetest.Builder) *imagetest.Builder {
	t.Helper()
	path := filepath.Join(harness.Tree(), shellPath)
	b = b.Layer().File("/bin/sh", 0o755, read(t, path))
	for _, file := range libraries(t, path) {
		b.File(file, 0o755, read(t, file))
	}
	return b
}

func applets(t testing.TB) []byte {
	t.Helper()
	return read(t, harness.Program(t, "applets", "./test/critest/applets"))
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func command(words ...string) func(*ocispec.ImageConfig) {
	return func(c *ocispec.ImageConfig) { c.Cmd = words }
}

func withUser(b *imagetest.Builder, user string) *imagetest.Builder {
	return b.Config(func(c *ocispec.ImageConfig) { c.User = user })
}

// marked is an image that differs from others by one empty file.
func marked(t testing.TB, name string) *imagetest.Image {
	t.Helper()
	return userland(t).Layer().File("/"+name, 0o644, nil).Build()
}

// predefinedGroup has a user that the image's own /etc/group puts into one more group.
func predefinedGroup(t testing.TB) *imagetest.Image {
	t.Helper()
	b := userland(t).Layer().
		File("/etc/passwd", 0o644, []byte(passwd+"default-user:x:1000:1000::/home/default-user:/bin/sh\n")).
		File("/etc/group", 0o644, []byte(group+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")).
		Entry(&tar.Header{Typeflag: tar.TypeDir, Name: "/home/default-user", Mode: 0o755, Uid: 1000, Gid: 1000}, nil)
	return withUser(b, "1000").Build()
}

// pauseImage runs until it is killed and has no shell.
func pauseImage(t testing.TB) *imagetest.Image {
	t.Helper()
	return imagetest.New().
		File("/pause", 0o755, read(t, harness.Workload(t))).
		Config(func(c *ocispec.ImageConfig) { c.Entrypoint = []string{"/pause", "sleep-forever"} }).
		Build()
}

// nonewprivs says as whom it runs; its program is set-user-id root.
func nonewprivs(t testing.TB) *imagetest.Image {
	t.Helper()
	return userland(t).
		File("/nonewprivs", 0o4755, applets(t)).
		Config(func(c *ocispec.ImageConfig) { c.Entrypoint, c.Cmd = []string{"/nonewprivs"}, nil }).
		Build()
}

// httpd answers on port 80 and names itself in its log, as Apache's does.
func httpd(t testing.TB) *imagetest.Image {
	t.Helper()
	const run = "echo httpd is starting; exec httpd -f -vv -p 80 -h /usr/local/apache2/htdocs"
	return userland(t).
		File("/usr/local/apache2/htdocs/index.html", 0o644, page("httpd")).
		Config(command("sh", "-c", run)).
		Build()
}

func page(who string) []byte {
	return fmt.Appendf(nil, "<html><body><h1>Welcome to %s!</h1></body></html>\n", who)
}
