package kubelet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func init() {
	scenarios["user namespaces"] = userNamespaces
}

// userNamespaces: a pod without the host's users is root to itself, somebody else
// to the host, and another one than the next pod; the files of its volumes belong
// on the disk to whom they belong inside.
func userNamespaces(t *testing.T, n *Node) {
	dir, host := n.hostDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	spec := func(name string) v1.PodSpec {
		write := func(as string) v1.Container {
			file := name + "-" + as
			return mounted(mounted(sh(as, "echo mine >/host/"+file+"; echo mine >/disk/"+as+"; echo mine >/tmp/own; sleep 1000"), "host", "/host"), "disk", "/disk")
		}
		other := write("other")
		other.SecurityContext = &v1.SecurityContext{RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](1001)}
		return v1.PodSpec{HostUsers: ptr.To(false), Containers: []v1.Container{write("root"), other},
			Volumes: []v1.Volume{host, {Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}}
	}
	pods := map[string]*Pod{"a": n.run(t, spec("a")), "b": n.run(t, spec("b"))}
	seen := map[string]string{harness.Namespace(os.Getpid(), "user"): "the node"}
	for name, p := range pods {
		pod := p.ready()
		first := p.firstID(pod, "root")
		equal(t, "first id of the other container", p.firstID(pod, "other"), first)
		users := harness.Namespace(p.pid(pod, "root"), "user")
		if whose, ok := seen[users]; ok {
			t.Errorf("pod %s has the user namespace of %s", name, whose)
		}
		seen[users] = name
		equal(t, "user namespace of the other container", harness.Namespace(p.pid(pod, "other"), "user"), users)
		for as, ids := range map[string][2]int{"root": {0, 0}, "other": {1000, 1001}} {
			equal(t, "user of "+as, p.field(pod, as, "Uid"), four(first+ids[0]))
			equal(t, "group of "+as, p.field(pod, as, "Gid"), four(first+ids[1]))
			volume := filepath.Join(n.Dir, "root/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/disk", as)
			p.waitOwner(filepath.Join(dir, name+"-"+as), ids)
			p.waitOwner(volume, ids)
			p.waitOwner(p.inside(pod, as, "/tmp/own"), [2]int{first + ids[0], first + ids[1]})
			out, err := p.sync(as, "stat", "-c", "%u:%g", "/host/"+name+"-"+as, "/disk/"+as, "/tmp/own")
			want := strings.Repeat(fmt.Sprintf("%d:%d\n", ids[0], ids[1]), 3)
			if err != nil || out != want {
				t.Errorf("owners of what %s made, as it sees them: %q, %v; want %q", as, out, err, want)
			}
		}
	}
	usersInMemory(t, n)
	a, b := pods["a"], pods["b"]
	if first := a.firstID(a.get(), "root"); first == b.firstID(b.get(), "root") {
		t.Errorf("both pods have the ids from %d on", first)
	}
}

// usersInMemory: a volume in memory, as secrets and tokens have, wants a kernel whose
// tmpfs can map ids, Linux 6.3; an older one is what the pod's status names.
func usersInMemory(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{HostUsers: ptr.To(false), Containers: []v1.Container{mounted(sh("c", "echo mine >/memory/file; sleep 1000"), "memory", "/memory")},
		Volumes: []v1.Volume{{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}}}})
	var major, minor int
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err == nil {
		_, err = fmt.Sscanf(string(release), "%d.%d", &major, &minor)
	}
	if err != nil {
		t.Fatal(err)
	}
	if major > 6 || major == 6 && minor >= 3 {
		pod := p.ready()
		p.waitOwner(filepath.Join(n.Dir, "root/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/memory/file"), [2]int{0, 0})
		return
	}
	pod := p.until("a refusal", func(pod *v1.Pod) bool {
		w := status(pod, "c").State.Waiting
		return w != nil && w.Reason == "CreateContainerError"
	})
	if said := status(pod, "c").State.Waiting.Message; !strings.Contains(said, "id-mapped") {
		t.Errorf("the pod's status does not say why: %q", said)
	}
}

// firstID is the host's id of a container's root: the maps that the kernel has are
// one range, as long as the kubelet gives each pod, and never the host's own.
func (p *Pod) firstID(pod *v1.Pod, container string) (first int) {
	p.t.Helper()
	const length = 65536
	for _, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid(pod, container), name))
		if err != nil {
			p.t.Fatal(err)
		}
		var inside, host, count int
		if _, err := fmt.Sscan(string(text), &inside, &host, &count); err != nil || strings.Count(string(text), "\n") != 1 {
			p.t.Fatalf("%s: %q, %v", name, text, err)
		}
		if inside != 0 || count != length || host < length || host%length != 0 || first != 0 && host != first {
			p.t.Errorf("%s of %s: %q", name, container, text)
		}
		first = host
	}
	return first
}

// waitOwner waits for a file and looks whose it is on the host.
func (p *Pod) waitOwner(path string, want [2]int) {
	p.t.Helper()
	var st syscall.Stat_t
	p.wait(p.t, path, func() bool { return syscall.Lstat(path, &st) == nil })
	equal(p.t, "owner of "+path, [2]int{int(st.Uid), int(st.Gid)}, want)
}

// four is a line of /proc/PID/status: real, effective, saved and file system's id.
func four(id int) string { return fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", id) }
