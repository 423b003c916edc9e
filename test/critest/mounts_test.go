package critest_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func mount(m *runtimeapi.Mount) containerOption {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = append(c.Mounts, m) }
}

// volume is a directory of the host with a file in it.
func (n *node) volume() string {
	n.Helper()
	dir, err := os.MkdirTemp(n.dir, "volume")
	if err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host"), 0o755); err != nil {
		n.Fatal(err)
	}
	return dir
}

// tmpfs mounts a file system on the host and takes it away at the end.
func (n *node) tmpfs(dir string) {
	n.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.Fatal(err)
	}
	if err := syscall.Mount("critest", dir, "tmpfs", 0, ""); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func (n *node) sharedVolume() string {
	n.Helper()
	dir := n.volume()
	n.tmpfs(dir)
	if err := syscall.Mount("", dir, "", syscall.MS_SHARED, ""); err != nil {
		n.Fatal(err)
	}
	return dir
}

// options are those of the mount at a place, as the container sees it.
func (c *container) options(place string) string {
	c.Helper()
	return "," + c.sh("awk '$5 == \""+place+"\" { print $6 }' /proc/self/mountinfo") + ","
}

func TestMountReadonly(t *testing.T) {
	clause(t, "If set, the mount is read-only.")
	n := newNode(t)
	dir := n.volume()
	c := n.pod().run(mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/ro", Readonly: true}), mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/rw"}))
	equal(t, "content", c.sh("cat /ro/file"), "from the host")
	if out, code := c.exec("touch /ro/x 2>&1"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing ended with %d: %s", code, out)
	}
	c.sh("echo x >/rw/written")
	if _, err := os.Stat(filepath.Join(dir, "written")); err != nil {
		t.Error(err)
	}
}

func TestMountSymlink(t *testing.T) {
	clause(t, "If the hostpath is a symbolic link, runtimes should follow the symlink and mount the real destination to container.")
	n := newNode(t)
	link := filepath.Join(n.dir, "link")
	if err := os.Symlink(n.volume(), link); err != nil {
		t.Fatal(err)
	}
	c := n.pod().run(mount(&runtimeapi.Mount{HostPath: link, ContainerPath: "/volume"}))
	equal(t, "content", c.sh("cat /volume/file"), "from the host")
	equal(t, "host_path in the status", c.status().Mounts[0].HostPath, link)
}

func TestMountMissingSource(t *testing.T) {
	clause(t, "field below is nil and the host path doesn't exist, then runtimes should report an error.")
	n := newNode(t)
	missing := filepath.Join(n.dir, "missing")
	_, err := n.pod().try(mount(&runtimeapi.Mount{HostPath: missing, ContainerPath: "/volume"}))
	refused(t, "a missing source", err, missing)
	if _, err := os.Stat(missing); err == nil {
		t.Error("it was made")
	}
}

// TestMountOptions: each option by itself, and what is none.
func TestMountOptions(t *testing.T) {
	clause(t, "nodev, nosuid) that the runtime must apply when mounting this volume")
	n := newNode(t)
	p := n.pod()
	for _, option := range []string{"noexec", "nodev", "nosuid"} {
		c := p.run(mount(&runtimeapi.Mount{HostPath: n.volume(), ContainerPath: "/volume", MountOptions: []string{option}}))
		if got := c.options("/volume"); !strings.Contains(got, ","+option+",") {
			t.Errorf("with %s the mount has %s", option, got)
		}
		if _, code := c.exec("/volume/file"); option == "noexec" && code != 126 {
			t.Errorf("a program on a noexec mount ended with %d", code)
		}
	}
	_, err := p.try(mount(&runtimeapi.Mount{HostPath: n.volume(), ContainerPath: "/volume", MountOptions: []string{"lowerdir=/"}}))
	strict(t, "an unknown option", err, "mount_options")
}

func TestPropagationPrivate(t *testing.T) {
	clause(t, "No mount propagation (\"rprivate\" in Linux terminology).")
	n := newNode(t)
	dir := n.sharedVolume()
	c := n.pod().run(mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/volume"}))
	n.tmpfs(filepath.Join(dir, "later"))
	equal(t, "mounts that came", c.sh("grep -c ' /volume/later ' /proc/self/mountinfo; true"), "0")
}

func TestPropagationHostToContainer(t *testing.T) {
	clause(t, "Mounts get propagated from the host to the container (\"rslave\" in Linux).")
	n := newNode(t)
	dir := n.sharedVolume()
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := p.run(mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/volume", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}),
		security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
	later := filepath.Join(dir, "later")
	n.tmpfs(later)
	if err := os.WriteFile(filepath.Join(later, "new"), []byte("mounted later"), 0o644); err != nil {
		t.Fatal(err)
	}
	equal(t, "a file on a later mount", c.sh("cat /volume/later/new"), "mounted later")
	c.sh("mkdir /volume/inside && mount -t tmpfs none /volume/inside && touch /volume/inside/x")
	if _, err := os.Stat(filepath.Join(dir, "inside", "x")); err == nil {
		t.Error("a mount of the container came to the host")
	}
	equal(t, "propagation in the status", c.status().Mounts[0].Propagation, runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)
}

func TestPropagationBidirectional(t *testing.T) {
	clause(t, "Mounts get propagated from the host to the container and from the")
	n := newNode(t)
	dir := n.sharedVolume()
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	both := func(dir string) []containerOption {
		return []containerOption{security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }),
			mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/volume", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL})}
	}
	c := p.run(both(dir)...)
	t.Cleanup(func() { syscall.Unmount(filepath.Join(dir, "inside"), syscall.MNT_DETACH) })
	c.sh("mkdir /volume/inside && mount -t tmpfs none /volume/inside && touch /volume/inside/x")
	if _, err := os.Stat(filepath.Join(dir, "inside", "x")); err != nil {
		t.Errorf("a mount of the container did not come to the host: %v", err)
	}
	private := n.volume()
	n.tmpfs(private)
	if err := syscall.Mount("", private, "", syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	_, err := p.try(both(private)...)
	refused(t, "BIDIRECTIONAL on a private mount", err, private, "shared")
}

func TestRecursiveReadOnly(t *testing.T) {
	clause(t, "when set to true, readonly must be explicitly set to true, and propagation must be PRIVATE (0).")
	n := newNode(t)
	dir := n.volume()
	n.tmpfs(filepath.Join(dir, "below"))
	p := n.pod()
	rro := func(m *runtimeapi.Mount) containerOption {
		m.HostPath, m.ContainerPath, m.RecursiveReadOnly = dir, "/volume", true
		return mount(m)
	}
	c := p.run(rro(&runtimeapi.Mount{Readonly: true}))
	if _, code := c.exec("touch /volume/below/x"); code == 0 {
		t.Error("a mount below a recursively read-only one was written")
	}
	plain := p.run(mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/volume", Readonly: true}))
	plain.sh("touch /volume/below/x")
	equal(t, "recursive_read_only in the status", c.status().Mounts[0].RecursiveReadOnly, true)
	_, err := p.create(rro(&runtimeapi.Mount{}))
	refused(t, "without readonly", err)
	_, err = p.create(rro(&runtimeapi.Mount{Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}))
	refused(t, "with propagation", err)
}

// TestSELinuxRelabel: without SELinux there is nothing to do, and the kubelet
// sends it all the same.
func TestSELinuxRelabel(t *testing.T) {
	clause(t, "If set, the mount needs SELinux relabeling.")
	n := newNode(t)
	c := n.pod().run(mount(&runtimeapi.Mount{HostPath: n.volume(), ContainerPath: "/volume", SelinuxRelabel: true}))
	equal(t, "in the status", c.status().Mounts[0].SelinuxRelabel, true)
}

func (n *node) imageVolume(sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/image", Readonly: true, Image: &runtimeapi.ImageSpec{Image: n.image}, ImageSubPath: sub}
}

func TestImageVolume(t *testing.T) {
	clause(t, "All image mounts are per feature definition")
	n := newNode(t)
	c := n.pod().run(mount(n.imageVolume("")))
	equal(t, "a file of the image", c.sh("cat /image/etc/passwd"), c.sh("cat /etc/passwd"))
	equal(t, "a program of the image", c.sh("/image/bin/echo runs"), "runs")
	if out, code := c.exec("touch /image/x 2>&1"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing ended with %d: %s", code, out)
	}
	if got := c.options("/image"); strings.Contains(got, ",noexec,") || !strings.Contains(got, ",ro,") {
		t.Errorf("the mount has %s", got)
	}
	m := n.imageVolume("")
	m.Readonly = false
	_, err := n.pod().try(mount(m))
	refused(t, "an image volume to write to", err, "readonly")
	m = n.imageVolume("")
	m.Image.Image = "registry.invalid/not/there:1"
	_, err = n.pod().try(mount(m))
	refused(t, "an image that is not there", err, m.Image.Image)
}

func TestImageVolumeRef(t *testing.T) {
	clause(t, "The digest of the image used for this volume.")
	n := newNode(t)
	c := n.pod().run(mount(n.imageVolume("")))
	equal(t, "image_ref", c.status().Mounts[0].GetImage().GetImageRef(), c.status().ImageId)
	equal(t, "image", c.status().Mounts[0].GetImage().GetImage(), n.image)
}

func TestImageSubPath(t *testing.T) {
	clause(t, "not empty and does not exist in the image, then runtimes should fail and")
	n := newNode(t)
	c := n.pod().run(mount(n.imageVolume("etc")))
	equal(t, "a file of the sub path", c.sh("cat /image/passwd"), c.sh("cat /etc/passwd"))
	equal(t, "image_sub_path in the status", c.status().Mounts[0].ImageSubPath, "etc")
	if out, code := c.exec("touch /image/x 2>&1"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing ended with %d: %s", code, out)
	}
	for _, bad := range []string{"not/there", "etc/passwd/below", "../etc"} {
		_, err := n.pod().try(mount(n.imageVolume(bad)))
		refused(t, bad, err, "image_sub_path")
		if strings.HasPrefix(bad, "..") {
			continue // refused before anything is mounted
		}
		// The kubelet turns this prefix into the container's reason.
		if text := status.Convert(err).Message(); !strings.HasPrefix(text, "ImageVolumeMountFailed") {
			t.Errorf("%s: %q does not begin with ImageVolumeMountFailed", bad, text)
		}
	}
}

// TestImageVolumeLives: an image that only a mount uses is removed and another
// comes; the container goes on seeing all of its own.
func TestImageVolumeLives(t *testing.T) {
	clause(t, "All image mounts are per feature definition")
	n := newNode(t)
	ref := n.registry().push("volume", n.small("file"))
	id := n.pull(ref)
	m := n.imageVolume("")
	m.Image.Image = id
	c := n.pod().run(mount(m))
	want := c.sh("cat /image/data/file")
	if err := n.removeImage(id); err != nil {
		t.Logf("the runtime refuses to remove an image in use, which is as good: %v", err)
	}
	n.pull(n.registry().push("other", n.small("other")))
	equal(t, "a file of the volume", c.sh("cat /image/data/file"), want)
	equal(t, "files", c.sh("ls /image/data"), "file")
}

// TestIDMappedMount: the container sees the owners that the mapping says, or the
// request is refused by the field's name.
func TestIDMappedMount(t *testing.T) {
	clause(t, "UidMappings specifies the runtime UID mappings for the mount.")
	n := newNode(t)
	dir := n.volume()
	if err := os.Chown(filepath.Join(dir, "file"), 7, 9); err != nil {
		t.Fatal(err)
	}
	ids := []*runtimeapi.IDMapping{{ContainerId: 0, HostId: 100000, Length: 1000}}
	c, err := n.pod().try(mount(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/volume", UidMappings: ids, GidMappings: ids}))
	if err != nil {
		refused(t, "an idmapped mount", err, "uidMappings")
		return
	}
	equal(t, "owner", c.sh("stat -c %u:%g /volume/file"), "100007:100009")
}
