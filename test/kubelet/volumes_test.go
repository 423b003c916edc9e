package kubelet_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func init() {
	scenarios["volumes"] = volumes
	scenarios["sub paths"] = subPaths
	scenarios["termination message"] = terminationMessage
}

// volumes of each kind that a static pod may have, looked at from both sides.
func volumes(t *testing.T, n *Node) {
	dir, host := n.hostDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	size := resource.MustParse("16Mi")
	spec := v1.PodSpec{Volumes: []v1.Volume{host,
		{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &size}}},
		{Name: "image", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: probe, PullPolicy: v1.PullIfNotPresent}}},
		// The others that the kubelet writes want an API server: TestAPIPods has them.
		{Name: "downward", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{
			Items: []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
	}}
	writer := sh("writer", "echo shared >/disk/file; echo shared >/memory/file; sleep 1000")
	reader := sh("reader", "sleep 1000")
	for _, c := range []*v1.Container{&writer, &reader} {
		for _, v := range spec.Volumes {
			*c = mounted(*c, v.Name, "/"+v.Name)
		}
	}
	for i := range reader.VolumeMounts[:3] {
		reader.VolumeMounts[i].ReadOnly = true
	}
	spec.Containers = []v1.Container{writer, reader}
	p := n.run(t, spec)
	pod := p.ready()
	for path, want := range map[string]string{
		"/host/file": "from the host", "/disk/file": "shared\n", "/memory/file": "shared\n", "/downward/name": p.Name,
	} {
		p.waitFile(pod, "reader", path, want)
	}
	if _, err := os.Stat(p.inside(pod, "reader", "/image/bin/workload")); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/host", "/disk", "/memory", "/image"} {
		if out, err := p.sync("reader", "touch", path+"/new"); err == nil && !strings.Contains(out, "Read-only") {
			t.Errorf("%s is read-only, touch says %q", path, out)
		}
	}
	out, err := p.sync("writer", "df", "-k", "/memory")
	if err != nil || !strings.Contains(out, "tmpfs") || !strings.Contains(out, " 16384 ") {
		t.Errorf("the volume in memory is not a tmpfs of 16 MiB: %q, %v", out, err)
	}
}

// waitFile waits until a file of a container reads so.
func (p *Pod) waitFile(pod *v1.Pod, container, path, want string) {
	p.t.Helper()
	var got []byte
	if !within(patience, func() bool {
		got, _ = os.ReadFile(p.inside(pod, container, path))
		return string(got) == want
	}) {
		p.t.Errorf("%s: got %q, want %q", path, got, want)
	}
}

// subPaths mounts a directory and a file out of a volume.
func subPaths(t *testing.T, n *Node) {
	dir, host := n.hostDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "file"), []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := sh("c", "sleep 1000")
	c.VolumeMounts = []v1.VolumeMount{
		{Name: "host", MountPath: "/dir", SubPath: "a/b"},
		{Name: "host", MountPath: "/etc/one", SubPath: "a/b/file", ReadOnly: true},
		{Name: "host", MountPath: "/made", SubPath: "made/by/the/kubelet"},
	}
	p := n.run(t, v1.PodSpec{Volumes: []v1.Volume{host}, Containers: []v1.Container{c}})
	pod := p.ready()
	p.waitFile(pod, "c", "/dir/file", "deep")
	p.waitFile(pod, "c", "/etc/one", "deep")
	if err := os.WriteFile(p.inside(pod, "c", "/made/new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made/by/the/kubelet/new")); err != nil {
		t.Error(err)
	}
}

// terminationMessage: the kubelet finds the file by what the runtime tells of the
// mount, and falls back to the log.
func terminationMessage(t *testing.T, n *Node) {
	written := sh("written", "echo -n why >/dev/termination-log; exit 1")
	logged := sh("logged", "echo last words; exit 1")
	logged.TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
	p := n.run(t, v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{written, logged}})
	pod := p.until("the end", func(pod *v1.Pod) bool { return pod.Status.Phase == v1.PodFailed })
	equal(t, "message", status(pod, "written").State.Terminated.Message, "why")
	equal(t, "message", status(pod, "logged").State.Terminated.Message, "last words\n")
}
