package pods_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodAddress(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	server := pod.Run("server", i.Image(probe), run("serve-http", "8080", "hello"))
	server.WaitOutput("ready")
	for _, address := range addresses(t, pod) {
		equal(t, "page from the node", fetch(t, i.Node, address, 8080, "/"), "hello")
	}
	equal(t, "page from another container", pod.Run("client", i.Image(probe), run("get", "http://127.0.0.1:8080/")).WaitExit().ExitCode, 0)
	other := i.RunPod().Run("client", i.Image(probe), run("get", "http://"+join(addresses(t, pod)[0], 8080)))
	equal(t, "exit code of another pod's client", other.WaitExit().ExitCode, 0)
	equal(t, "page from another pod", strings.TrimSpace(other.Output("stdout")), "hello")
}

// addresses lists the pod's, the first one first.
func addresses(t *testing.T, pod *harness.Pod) []string {
	t.Helper()
	network := pod.Status().Network
	if network == nil || net.ParseIP(network.Ip) == nil {
		t.Fatalf("the pod has no address: %v", network)
	}
	list := []string{network.Ip}
	for _, ip := range network.AdditionalIps {
		list = append(list, ip.Ip)
	}
	return list
}

func join(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// fetch reads a page from inside a network namespace.
func fetch(t *testing.T, from *harness.Net, host string, port int, path string) string {
	t.Helper()
	resp, err := from.Client().Get("http://" + join(host, port) + path)
	if err != nil {
		t.Errorf("from the %s namespace: %v", from.Name, err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

func port(host, container int32) harness.PodOption {
	return func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = append(c.PortMappings, &runtimeapi.PortMapping{HostPort: host, ContainerPort: container})
	}
}

func TestHostPort(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(port(8088, 80))
	server := pod.Run("server", i.Image(probe), run("serve-http", "80", "hello"))
	server.WaitOutput("ready")
	equal(t, "page from outside", fetch(t, i.Outside, harness.NodeIPv4, 8088, "/"), "hello")
	equal(t, "page from the node by its address", fetch(t, i.Node, harness.NodeIPv4, 8088, "/"), "hello")
	equal(t, "page from the node by 127.0.0.1", fetch(t, i.Node, "127.0.0.1", 8088, "/"), "hello")
	equal(t, "client that the server sees", fetch(t, i.Outside, harness.NodeIPv4, 8088, "/from"), harness.OutsideIPv4)
	if len(addresses(t, pod)) > 1 {
		equal(t, "page from outside by IPv6", fetch(t, i.Outside, harness.NodeIPv6, 8088, "/"), "hello")
	}
	pod.Stop()
	client := i.Outside.Client()
	client.Timeout = time.Second
	if _, err := client.Get("http://" + join(harness.NodeIPv4, 8088)); err == nil {
		t.Error("the port answers after the pod was stopped")
	}
	// Free again for the next pod.
	again := i.RunPod(port(8088, 80)).Run("server", i.Image(probe), run("serve-http", "80", "again"))
	again.WaitOutput("ready")
	equal(t, "page of the next pod", fetch(t, i.Outside, harness.NodeIPv4, 8088, "/"), "again")
}

func TestHostPortTaken(t *testing.T) {
	i := harness.New(t)
	i.RunPod(port(8088, 80))
	if _, err := i.TryRunPod(i.PodConfig(port(8088, 81))); err == nil || !strings.Contains(err.Error(), "8088") {
		t.Errorf("a second pod on the same host port: %v", err)
	}
}

// TestTrafficOut: the outside, which has no route to pods, sees the node.
func TestTrafficOut(t *testing.T) {
	i := harness.New(t)
	i.Outside.Serve(t, ":80", http.HandlerFunc(tellFrom))
	pod := i.RunPod()
	c := pod.Run("client", i.Image(probe), run("get", "http://"+harness.OutsideIPv4))
	equal(t, "exit code", c.WaitExit().ExitCode, 0)
	equal(t, "address that the outside saw", strings.TrimSpace(c.Output("stdout")), harness.NodeIPv4)
	if len(addresses(t, pod)) > 1 {
		c = pod.Run("client6", i.Image(probe), run("get", "http://["+harness.OutsideIPv6+"]"))
		equal(t, "exit code with IPv6", c.WaitExit().ExitCode, 0)
		equal(t, "address that the outside saw", strings.TrimSpace(c.Output("stdout")), harness.NodeIPv6)
	}
}

// tellFrom answers with the client's address.
func tellFrom(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprint(w, host)
}

// TestHostNetwork: the pod's address is the node's, and its names are not changed.
func TestHostNetwork(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modeNode, modeContainer, modePod))
	pod.Run("server", i.Image(probe), run("serve-http", "8080", "hello")).WaitOutput("ready")
	equal(t, "page from outside", fetch(t, i.Outside, harness.NodeIPv4, 8080, "/"), "hello")
	if n := pod.Status().Network; n != nil && n.Ip != "" {
		t.Errorf("a pod on the node's network reports the address %s as its own", n.Ip)
	}
}

// TestPodAddressSurvivesRestart: the same address, and nobody else gets it.
func TestPodAddressSurvivesRestart(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	before := addresses(t, pod)
	i.Kill()
	i.Start()
	equal(t, "addresses", strings.Join(addresses(t, pod), " "), strings.Join(before, " "))
	if addresses(t, i.RunPod())[0] == before[0] {
		t.Error("two pods have the same address")
	}
}
