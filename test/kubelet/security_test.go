package kubelet_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func init() {
	scenarios["host network"] = hostNetwork
	scenarios["host port"] = hostPort
	scenarios["process namespaces"] = processNamespaces
	scenarios["non-root on port 80"] = nonRoot
	scenarios["capabilities, seccomp, sysctls"] = confined
}

// serving is a container that answers on a port, and is ready once it does.
func serving(port int32, text string) v1.Container {
	c := work("c", "serve-http", fmt.Sprint(port), text)
	c.ReadinessProbe = every(v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(port)}}})
	return c
}

// page gets a page from inside a network namespace.
func page(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// hostNetwork is the node's own.
func hostNetwork(t *testing.T, n *Node) {
	onTheNode := serving(18090, "on the node")
	onTheNode.ReadinessProbe.HTTPGet.Host = harness.NodeIPv4 // without an API server it does not know its address
	p := n.run(t, v1.PodSpec{HostNetwork: true, Containers: []v1.Container{onTheNode}})
	pod := p.ready()
	node, err := n.Node.Inode()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "network namespace", harness.Namespace(p.pid(pod, "c"), "net"), node)
	equal(t, "page", page(t, n.Outside.Client(), "http://"+harness.NodeIPv4+":18090"), "on the node")
}

// hostPort is reached from outside, and by the node itself.
func hostPort(t *testing.T, n *Node) {
	c := serving(8080, "behind a port")
	c.Ports = []v1.ContainerPort{{ContainerPort: 8080, HostPort: 18080}}
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c}})
	p.ready()
	equal(t, "page from outside", page(t, n.Outside.Client(), "http://"+harness.NodeIPv4+":18080"), "behind a port")
	equal(t, "page from the node", page(t, n.Node.Client(), "http://127.0.0.1:18080"), "behind a port")
}

// processNamespaces: one for each container, one for the pod, or the host's.
func processNamespaces(t *testing.T, n *Node) {
	two := func() []v1.Container { return []v1.Container{work("a", "sleep-forever"), work("b", "sleep-forever")} }
	for _, c := range []struct {
		what string
		spec v1.PodSpec
		same bool // both containers
		host bool
	}{
		{"of its own", v1.PodSpec{Containers: two()}, false, false},
		{"shared", v1.PodSpec{ShareProcessNamespace: ptr.To(true), Containers: two()}, true, false},
		{"of the host", v1.PodSpec{HostPID: true, Containers: two()}, true, true},
	} {
		p := n.run(t, c.spec)
		pod := p.ready()
		a, b := harness.Namespace(p.pid(pod, "a"), "pid"), harness.Namespace(p.pid(pod, "b"), "pid")
		equal(t, c.what+": same", a == b, c.same)
		equal(t, c.what+": the host's", a == harness.Namespace(os.Getpid(), "pid"), c.host)
	}
}

// nonRoot serves on a port below 1024.
func nonRoot(t *testing.T, n *Node) {
	c := serving(80, "low")
	c.SecurityContext = &v1.SecurityContext{RunAsUser: ptr.To[int64](1000), RunAsNonRoot: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{c}})
	pod := p.ready()
	equal(t, "page", page(t, n.Node.Client(), "http://"+pod.Status.PodIP), "low")
	equal(t, "user", p.field(pod, "c", "Uid"), "1000\t1000\t1000\t1000")
	equal(t, "no new privileges", p.field(pod, "c", "NoNewPrivs"), "1")
}

// field is a line of a container's /proc/PID/status, as the host sees it.
func (p *Pod) field(pod *v1.Pod, container, name string) string {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid(pod, container)))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			return strings.TrimSpace(value)
		}
	}
	p.t.Fatalf("no line %s", name)
	return ""
}

// confined: what a pod asks for is what the kernel shows of its processes.
func confined(t *testing.T, n *Node) {
	runtimeDefault := &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
	c := work("c", "sleep-forever")
	c.SecurityContext = &v1.SecurityContext{SeccompProfile: runtimeDefault, ReadOnlyRootFilesystem: ptr.To(true),
		Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_RAW"}}}
	free := sh("free", "sleep 1000")
	free.SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
	p := n.run(t, v1.PodSpec{
		SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}, {Name: "net.ipv4.ip_local_port_range", Value: "40000 41000"}}},
		Containers:      []v1.Container{c, free},
	})
	pod := p.ready()
	equal(t, "capabilities", p.field(pod, "c", "CapEff"), fmt.Sprintf("%016x", 1<<13))
	equal(t, "seccomp", p.field(pod, "c", "Seccomp"), "2")
	equal(t, "seccomp of the privileged", p.field(pod, "free", "Seccomp"), "0")
	out, err := p.sync("free", "cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil || strings.Join(strings.Fields(out), " ") != "1 40000 41000" {
		t.Errorf("sysctls: %q, %v", out, err)
	}
	if err := os.WriteFile(p.inside(pod, "c", "/new"), nil, 0o644); err == nil {
		t.Error("the root file system is read-only, but a file was made")
	}
}
