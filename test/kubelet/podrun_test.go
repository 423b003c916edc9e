package kubelet_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// The test images and where the node's registry has them.
const (
	busybox = "127.0.0.1:5000/busybox:latest"
	probe   = "127.0.0.1:5000/probe:latest"
)

// A Pod is a static pod of the test's.
type Pod struct {
	*Node
	t        testing.TB
	Name     string // with the node's, as the kubelet calls it
	manifest string
	uid      string
}

// sh is a container that runs a shell script in busybox.
func sh(name, script string) v1.Container {
	return v1.Container{Name: name, Image: busybox, Command: []string{"/bin/sh", "-c", script}}
}

// work is a container that runs a verb of the workload.
func work(name string, verb ...string) v1.Container {
	return v1.Container{Name: name, Image: probe, Command: append([]string{"/bin/workload"}, verb...)}
}

// run writes a pod's manifest. Its end is quick, unless the test says otherwise.
func (n *Node) run(t testing.TB, spec v1.PodSpec) *Pod {
	t.Helper()
	number := n.made.Add(1)
	name := fmt.Sprintf("pod-%d", number)
	p := &Pod{Node: n, t: t, Name: name + "-" + nodeName, uid: n.uid(number), manifest: filepath.Join(n.Dir, "manifests", name+".json")}
	p.write(spec)
	return p
}

// uid is a pod's, without the word "pod": the kubelet finds cgroups that are left
// by splitting their names there.
func (n *Node) uid(number int32) string {
	return fmt.Sprintf("%s%d-of-%s", uidPrefix, number, n.Instance.Name)
}

// uidPrefix begins the uid of every pod of the tests.
const uidPrefix = "uid"

// write puts the manifest in its place in one step. It has a uid of its own: the
// kubelet would make one from the text, and another pod of another text.
func (p *Pod) write(spec v1.PodSpec) {
	p.t.Helper()
	complete(&spec)
	name := strings.TrimSuffix(p.Name, "-"+nodeName)
	text, err := json.Marshal(v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(p.uid)},
		Spec:       spec,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	hidden := filepath.Join(p.Dir, filepath.Base(p.manifest))
	if err := os.WriteFile(hidden, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(hidden, p.manifest); err != nil {
		p.t.Fatal(err)
	}
}

// complete gives a pod a quick end and images that are pulled once, unless the
// test says otherwise.
func complete(spec *v1.PodSpec) {
	if spec.TerminationGracePeriodSeconds == nil {
		spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	}
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if list[i].ImagePullPolicy == "" {
				list[i].ImagePullPolicy = v1.PullIfNotPresent
			}
		}
	}
}

// delete takes the manifest away, or asks the API for the pod's end.
func (p *Pod) delete() {
	p.t.Helper()
	if p.manifest == "" {
		p.server.endPod(p.path())
		return
	}
	if err := os.Remove(p.manifest); err != nil {
		p.t.Fatal(err)
	}
}

// get returns the pod as the kubelet has it, or nil.
func (p *Pod) get() *v1.Pod {
	p.t.Helper()
	for _, pod := range p.podList(p.t) {
		if pod.Name == p.Name {
			return &pod
		}
	}
	return nil
}

// until waits for a state of the pod and returns it.
func (p *Pod) until(what string, cond func(*v1.Pod) bool) (pod *v1.Pod) {
	p.t.Helper()
	if !within(patience, func() bool { pod = p.get(); return pod != nil && cond(pod) }) {
		var status []byte
		if pod != nil {
			status, _ = json.MarshalIndent(pod.Status, "", " ")
		}
		p.t.Fatalf("waited %v in vain for %s of %s\n%s\n%s", patience, what, p.Name, status, p.tail())
	}
	return pod
}

// ready waits until the pod is Running and Ready.
func (p *Pod) ready() *v1.Pod {
	p.t.Helper()
	return p.until("readiness", isReady)
}

func isReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue && pod.Status.Phase == v1.PodRunning
		}
	}
	return false
}

// status returns a container's status, also of init and ephemeral containers.
func status(pod *v1.Pod, name string) v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == name {
				return s
			}
		}
	}
	return v1.ContainerStatus{}
}

// cgroupOf is a pod's cgroup, where the kubelet made it.
func (p *Pod) cgroupOf(pod *v1.Pod) string {
	names := []string{p.cgroup, "kubepods"}
	if pod.Status.QOSClass != v1.PodQOSGuaranteed {
		names = append(names, strings.ToLower(string(pod.Status.QOSClass)))
	}
	return p.group(append(names, "pod"+string(pod.UID))...)
}

// containerGroup is a container's cgroup.
func (p *Pod) containerGroup(pod *v1.Pod, name string) string {
	if p.slices() {
		return p.cgroupOf(pod) + "/cri-box-" + containerID(pod, name) + ".scope"
	}
	return p.cgroupOf(pod) + "/" + containerID(pod, name)
}

// containerID is the CRI's id of a container.
func containerID(pod *v1.Pod, name string) string {
	_, id, _ := strings.Cut(status(pod, name).ContainerID, "://")
	return id
}

// pid returns the first process in a container's cgroup.
func (p *Pod) pid(pod *v1.Pod, name string) int {
	p.t.Helper()
	var pids []int
	for _, text := range strings.Fields(processes.read(p.t, p.containerGroup(pod, name))) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			p.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	first := harness.Oldest(pids)
	if first == 0 {
		p.t.Fatalf("no process is in the cgroup of container %s", name)
	}
	return first
}

// inside is a file of a running container, seen from the host.
func (p *Pod) inside(pod *v1.Pod, name, path string) string {
	p.t.Helper()
	return fmt.Sprintf("/proc/%d/root%s", p.pid(pod, name), path)
}

// logs returns a container's lines from the files on disk, over all its
// restarts, oldest first.
func (p *Pod) logs(pod *v1.Pod, name string) (lines []harness.LogLine) {
	p.t.Helper()
	dir := filepath.Join(p.Dir, "podlogs", fmt.Sprintf("default_%s_%s", p.Name, pod.UID), name)
	for attempt := 0; ; attempt++ {
		text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.log", attempt)))
		if err != nil {
			return lines
		}
		more, err := harness.ParseLog(string(text[:strings.LastIndex(string(text), "\n")+1]))
		if err != nil {
			p.t.Fatal(err)
		}
		lines = append(lines, more...)
	}
}

// output returns a container's stdout from its log files.
func (p *Pod) output(pod *v1.Pod, name string) string {
	p.t.Helper()
	var b strings.Builder
	for _, l := range p.logs(pod, name) {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// hostDir is a directory of the node for pods to share with the test.
func (n *Node) hostDir(t testing.TB) (dir string, volume v1.Volume) {
	t.Helper()
	dir, err := os.MkdirTemp(n.Dir, "host")
	if err != nil {
		t.Fatal(err)
	}
	return dir, v1.Volume{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}}
}

// mounted gives a container a volume.
func mounted(c v1.Container, volume, path string) v1.Container {
	c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: volume, MountPath: path})
	return c
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
