package kubelet_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

// TestNetworkPlugins is a node that joins a cluster: as long as the cluster's network
// has written no configuration the kubelet starts only pods on the node's own; then
// the others come, by plugins.
func TestNetworkPlugins(t *testing.T) {
	n := newNode(t, setup{plugins: true})
	c := serving(8080, "by plugins")
	c.Ports = []v1.ContainerPort{{ContainerPort: 8080, HostPort: 18081}}
	other := n.run(t, v1.PodSpec{Containers: []v1.Container{c}})
	onTheNode := serving(18090, "the cluster's network")
	onTheNode.ReadinessProbe.HTTPGet.Host = harness.NodeIPv4
	n.run(t, v1.PodSpec{HostNetwork: true, Containers: []v1.Container{onTheNode}}).ready()
	if pod := other.get(); pod == nil || status(pod, "c").State.Running != nil || len(n.addresses()) > 0 {
		t.Errorf("a pod runs without a network: %+v", pod)
	}

	n.writeNetwork(t)
	pod := other.ready()
	address := pod.Status.PodIP
	equal(t, "addresses that are given away", strings.Join(n.addresses(), " "), address)
	if !strings.HasPrefix(address, "10.99.") {
		t.Errorf("the pod has the address %q, which is not the plugin's to give", address)
	}
	equal(t, "page", page(t, n.Node.Client(), "http://"+address+":8080"), "by plugins")
	equal(t, "page from outside", page(t, n.Outside.Client(), "http://"+harness.NodeIPv4+":18081"), "by plugins")

	n.removePods()
	n.wait(t, "the pods to go", func() bool { return len(n.podCgroups()) == 0 })
	n.wait(t, "their addresses to be given back", func() bool { return len(n.addresses()) == 0 })
	for _, left := range []string{"ip link delete plugins0", "nft flush ruleset"} { // the plugins' own
		args := strings.Fields(left)
		if err := n.Node.Do(func() error { return exec.Command(args[0], args[1:]...).Run() }); err != nil {
			t.Errorf("%s: %v", left, err)
		}
	}
}

// addresses lists those that the plugins have given away.
func (n *Node) addresses() (list []string) {
	files, _ := filepath.Glob(filepath.Join(n.leases(), "plugins", "10.*"))
	for _, f := range files {
		list = append(list, filepath.Base(f))
	}
	return list
}
