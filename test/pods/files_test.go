package pods_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	"github.com/klauspost/compress/gzip"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// layerFile finds a file in the image's only layer.
func layerFile(t *testing.T, img *imagetest.Image, name string) (*tar.Header, []byte) {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(img.Blob(img.Manifest.Layers[0].Digest)))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(zipped); ; {
		hdr, err := r.Next()
		if err != nil {
			t.Fatalf("cannot find %s: %v", name, err)
		}
		if strings.TrimPrefix(hdr.Name, "./") == name {
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return hdr, content
		}
	}
}

// box runs busybox until it is stopped.
func box(t *testing.T, pod *harness.Pod, opts ...harness.ContainerOption) *harness.Container {
	t.Helper()
	return pod.Run("box", pod.Image(busybox), sleeper, opts...)
}

func TestPodFiles(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "web-0"
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
	})
	c := box(t, pod)
	equal(t, "hostname", c.MustExec("/bin/hostname"), "web-0\n")
	equal(t, "/etc/hostname", c.MustExec("/bin/cat", "/etc/hostname"), "web-0\n")
	equal(t, "/etc/resolv.conf", c.MustExec("/bin/cat", "/etc/resolv.conf"),
		"search a.example b.example\nnameserver 192.0.2.53\noptions ndots:5\n")
	hosts := c.MustExec("/bin/cat", "/etc/hosts")
	for _, want := range []string{"127.0.0.1", "localhost", "web-0", addresses(t, pod)[0]} {
		if !strings.Contains(hosts, want) {
			t.Errorf("/etc/hosts has no %s:\n%s", want, hosts)
		}
	}
}

// A hostname that the request leaves out is the pod's name as far as it fits:
// sethostname(2) takes 64 bytes, a pod's name may have 253.
func TestLongNameAsHostname(t *testing.T) {
	i := harness.New(t)
	long := strings.Repeat("a", 62)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname, c.Metadata.Name = "", long+"-"+strings.Repeat("b", 100)
	})
	c := box(t, pod)
	equal(t, "hostname", c.MustExec("/bin/hostname"), long+"\n")
	equal(t, "HOSTNAME", c.MustExec("/bin/sh", "-c", "echo $HOSTNAME"), long+"\n")
}

func TestSharedMemory(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	writer := box(t, pod)
	writer.MustExec("/bin/sh", "-c", "echo shared >/dev/shm/file")
	reader := pod.Run("reader", i.Image(busybox), []string{"/bin/cat", "/dev/shm/file"})
	reader.WaitExit()
	equal(t, "what the other container reads", reader.Output("stdout"), "shared\n")
	size := strings.Fields(writer.MustExec("/bin/sh", "-c", "df -k /dev/shm | tail -n 1"))
	equal(t, "KiB", size[1], "65536")
	other := box(t, i.RunPod())
	equal(t, "code for another pod", exec(t, other, 0, "/bin/test", "-e", "/dev/shm/file").Code, 1)
}

func TestMounts(t *testing.T) {
	i := harness.New(t)
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "in")
	mounts := []*runtimeapi.Mount{
		{HostPath: dir, ContainerPath: "/volume"},
		{HostPath: dir, ContainerPath: "/deep/er/read-only", Readonly: true},
		{HostPath: file, ContainerPath: "/etc/one-file"},
	}
	c := box(t, i.RunPod(), func(c *runtimeapi.ContainerConfig) { c.Mounts = mounts })
	equal(t, "volume", c.MustExec("/bin/cat", "/volume/in"), "from the host")
	equal(t, "file", c.MustExec("/bin/cat", "/etc/one-file"), "from the host")
	c.MustExec("/bin/sh", "-c", "echo out >/volume/out")
	equal(t, "written by the container", readFile(t, filepath.Join(dir, "out")), "out\n")
	if r := exec(t, c, 0, "/bin/touch", "/deep/er/read-only/x"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("writing to a read-only mount: %+v", r)
	}
	status := c.Status()
	for n, m := range mounts {
		equal(t, "host path in the status", status.Mounts[n].HostPath, m.HostPath)
		equal(t, "container path in the status", status.Mounts[n].ContainerPath, m.ContainerPath)
	}
}

func TestMissingMountSource(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	missing := filepath.Join(t.TempDir(), "missing")
	config := pod.ContainerConfig("c", i.Image(probe), sleeper)
	config.Mounts = []*runtimeapi.Mount{{HostPath: missing, ContainerPath: "/volume"}}
	c, err := pod.TryCreate(config)
	if err == nil {
		err = c.TryStart()
	}
	if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "missing_bind_source") {
		t.Errorf("a missing source: %v; want an error that names it and the setting", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the source was made")
	}
}

func TestReadOnlyRoot(t *testing.T) {
	i := harness.New(t)
	c := box(t, i.RunPod(), security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }))
	if r := exec(t, c, 0, "/bin/touch", "/x"); r.Code == 0 {
		t.Error("a file was made in a read-only root")
	}
	c.MustExec("/bin/touch", "/dev/shm/x")
}

// TestRootIsTheContainersOwn: what one writes the next one of the image does not see.
func TestRootIsTheContainersOwn(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	box(t, pod).MustExec("/bin/sh", "-c", "echo x >/written && rm /etc/passwd")
	next := pod.Run("next", i.Image(busybox), sleeper)
	equal(t, "files", next.MustExec("/bin/sh", "-c", "ls /written /etc/passwd 2>/dev/null; true"), "/etc/passwd\n")
}

func TestMaskedPaths(t *testing.T) {
	i := harness.New(t)
	c := box(t, i.RunPod(), security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.MaskedPaths = []string{"/proc/kcore", "/proc/acpi", "/proc/missing"}
		s.ReadonlyPaths = []string{"/proc/sys"}
	}))
	equal(t, "bytes of /proc/kcore", c.MustExec("/bin/sh", "-c", "cat /proc/kcore | wc -c"), "0\n")
	if r := exec(t, c, 0, "/bin/sh", "-c", "echo x >/proc/sys/kernel/domainname"); r.Code == 0 {
		t.Error("/proc/sys can be written")
	}
}

// TestSysctls: a process that is not root serves port 80 and sends pings, unless
// the network is the node's.
func TestSysctls(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1234"}
	})
	c := box(t, pod)
	for name, want := range map[string]string{
		"net/ipv4/ip_unprivileged_port_start": "0\n",
		"net/ipv4/ping_group_range":           "0\t2147483647\n",
		"net/core/somaxconn":                  "1234\n",
	} {
		equal(t, name, c.MustExec("/bin/cat", "/proc/sys/"+name), want)
	}
	server := pod.Run("server", i.Image(probe), run("serve-http", "80", "hello"), asUser(1000))
	server.WaitOutput("ready")
}

// TestNothingOfTheHostShows: no path of the node stands in the container's mounts.
func TestNothingOfTheHostShows(t *testing.T) {
	i := harness.New(t)
	c := box(t, i.RunPod())
	equal(t, "host mounts that name the container", hostMountsNaming(t, c.ID), 0)
	equal(t, "names in /", strings.Join(strings.Fields(c.MustExec("/bin/ls", "/")), " "), "bin dev etc proc root sys tmp")
}

// hostMountsNaming counts the node's mounts whose line has that text.
func hostMountsNaming(t *testing.T, text string) int {
	t.Helper()
	return strings.Count(readFile(t, "/proc/self/mountinfo"), text)
}
