package kubelet_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const mib = 1 << 20

// available is what the kernel says is free on the node's own disk.
func (n *Node) available(t testing.TB) int64 {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(n.Dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize
}

// waste makes the node pull an image of that many MiB that nobody uses.
func (n *Node) waste(t testing.TB, name string, size int) (ref string) {
	t.Helper()
	content := make([]byte, size*mib)
	copy(content, name)
	ref = n.Push(name, imagetest.New().File("/file", 0o644, content).Build())
	n.Pull(ref)
	return ref
}

// hasImage asks the runtime, by the API that the kubelet uses.
func (n *Node) hasImage(t testing.TB, ref string) bool {
	t.Helper()
	resp, err := n.Images.ImageStatus(n.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Image != nil
}

// underPressure says whether the node's condition says so.
func (n *Node) underPressure() bool {
	var node v1.Node
	n.server.get("/api/v1/nodes/"+nodeName, &node)
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeDiskPressure {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// TestEviction fills the node's disk from within a container. First an unused
// image goes, which is enough; then the pod that wrote most, and no other. The
// kubelet knows who wrote what by cri-box's statistics.
func TestEviction(t *testing.T) {
	const threshold, image = 128 * mib, 64
	n := newNode(t, setup{api: true, disk: "640m", kubelet: `evictionHard: {nodefs.available: "128Mi"}
evictionPressureTransitionPeriod: 1s
nodeStatusUpdateFrequency: 1s
imageMinimumGCAge: 1s`})
	unused := n.waste(t, "unused", image)
	// The kubelet looks for images at its start, and then each 5 minutes.
	n.stopKubelet(t, syscall.SIGTERM)
	n.startKubelet(t, kubeletBinary(t))
	quiet := n.create(t, v1.PodSpec{
		Volumes:    []v1.Volume{{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}},
		Containers: []v1.Container{mounted(sh("c", "dd if=/dev/zero of=/disk/f bs=1M count=16; sleep 100000"), "disk", "/disk")}})
	dir, host := n.hostDir(t) // the test says here how much to write next
	eater := n.create(t, v1.PodSpec{Volumes: []v1.Volume{host}, Containers: []v1.Container{mounted(
		sh("c", "for i in 1 2; do until test -e /host/$i; do sleep 0.2; done; dd if=/dev/zero of=/file$i bs=1M count=$(cat /host/$i); done; sleep 100000"), "host", "/host")}})
	pids := map[*Pod]int{quiet: quiet.pid(quiet.ready(), "c"), eater: eater.pid(eater.ready(), "c")}
	eat := func(step string, bytes int64) {
		hidden := filepath.Join(n.Dir, step)
		if err := os.WriteFile(hidden, fmt.Append(nil, bytes/mib), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(hidden, filepath.Join(dir, step)); err != nil {
			t.Fatal(err)
		}
	}
	eat("1", n.available(t)-threshold+image/2*mib)
	n.wait(t, "the pressure to be told", n.underPressure) // after which its end can be waited for
	n.wait(t, "the unused image to go", func() bool { return !n.hasImage(t, unused) })
	n.wait(t, "its space", func() bool { return n.available(t) > threshold })
	n.wait(t, "the pressure to end", func() bool { return !n.underPressure() })
	for p, pid := range pids {
		equal(t, "process of "+p.Name+" after the image is gone", p.pid(p.ready(), "c"), pid)
	}

	eat("2", n.available(t)-threshold/2)
	pod := eater.until("eviction", func(pod *v1.Pod) bool { return pod.Status.Phase == v1.PodFailed })
	equal(t, "reason", pod.Status.Reason, "Evicted")
	n.wait(t, "what it wrote to go", func() bool { return n.available(t) > 2*threshold })
	equal(t, "its process lives", harness.Alive(pids[eater]), false)
	n.wait(t, "the pressure to end", func() bool { return !n.underPressure() })
	equal(t, "process of the quiet pod", quiet.pid(quiet.ready(), "c"), pids[quiet])
}

// TestImageGarbage: above the high threshold the kubelet removes unused images,
// and counts on their sizes to come below the low one: that much becomes free.
func TestImageGarbage(t *testing.T) {
	n := newNode(t, setup{disk: "640m", kubelet: `imageGCHighThresholdPercent: 60
imageGCLowThresholdPercent: 40
imageMinimumGCAge: 1s`})
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{sh("c", "sleep 100000")}})
	p.ready()
	for i := 0; n.available(t) > 640*mib*35/100; i++ {
		n.waste(t, fmt.Sprint("waste-", i), 40)
	}
	before := n.available(t)
	n.stopKubelet(t, syscall.SIGTERM)
	n.startKubelet(t, kubeletBinary(t))
	// It collects at its start, when the images are new to it, and then each 5 minutes.
	// It says of each image that it removes it before it does, and a runtime may free
	// the space after it has answered: while it works the two differ.
	var thinks, free int64
	enough := func() bool {
		thinks, free = sum(n.freed()), n.available(t)
		told := math.Abs(float64(free-before-thinks)) <= 0.05*float64(thinks)
		// containerd tells the size of what it pulled, packed; what it frees is that and the files.
		return free > 640*mib*59/100 && (told || n.peer != nil)
	}
	if !within(6*time.Minute, enough) {
		t.Fatalf("%d MiB are free, %d were; the kubelet thinks it freed %d\n%s", free/mib, before/mib, thinks/mib, n.tail())
	}
	equal(t, "the image in use is there", n.hasImage(t, busybox), true)
}

func sum(sizes []int64) (total int64) {
	for _, s := range sizes {
		total += s
	}
	return total
}

var removing = regexp.MustCompile(`"Removing image to free bytes".* size=(\d+)`)

// freed lists the sizes of the images that the kubelet says it removes.
func (n *Node) freed() (sizes []int64) {
	text, _ := os.ReadFile(filepath.Join(n.Dir, "kubelet.log"))
	for _, m := range removing.FindAllStringSubmatch(strings.TrimSpace(string(text)), -1) {
		size, _ := strconv.ParseInt(m[1], 10, 64)
		sizes = append(sizes, size)
	}
	return sizes
}
