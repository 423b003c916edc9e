package pods_test

import (
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// gatedPlugin passes on to the bridge plugin, but its DEL waits as long as there
// is a file.
const gatedPlugin = `#!/bin/sh
while [ "$CNI_COMMAND" = DEL ] && [ -e GATE ]; do echo waiting >> GATE.seen; sleep 0.05; done
exec /usr/lib/cni/bridge
`

// cniNode is an instance in mode cni and the path of its configuration and gate.
func cniNode(t *testing.T) (i *harness.Instance, conf, gate string) {
	t.Helper()
	dir := t.TempDir()
	conf, gate = filepath.Join(dir, "net.d", "10-pods.conflist"), filepath.Join(dir, "gate")
	for _, sub := range []string{"bin", "net.d"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "gated"), []byte(strings.ReplaceAll(gatedPlugin, "GATE", gate)), 0o755); err != nil {
		t.Fatal(err)
	}
	i = harness.New(t, harness.Args("--set", "network.mode=cni", "--set", "network.cni.conf_dir="+filepath.Dir(conf),
		"--set", "network.cni.bin_dirs=['"+filepath.Join(dir, "bin")+"', '/usr/lib/cni']"))
	return i, conf, gate
}

// bridge is the configuration of a network of gated bridges.
func bridge(conf string) string {
	return `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"gated","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
		"ipam":{"type":"host-local","dataDir":"` + filepath.Dir(filepath.Dir(conf)) + `/ipam","ranges":[[{"subnet":"10.89.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`
}

func networkReady(t *testing.T, i *harness.Instance) *runtimeapi.RuntimeCondition {
	t.Helper()
	resp, err := i.Runtime.Status(i.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.Status.Conditions {
		if c.Type == "NetworkReady" {
			return c
		}
	}
	t.Fatal("Status has no NetworkReady")
	return nil
}

func TestPodsByPlugins(t *testing.T) {
	i, conf, gate := cniNode(t)
	if c := networkReady(t, i); c.Status || !strings.Contains(c.Message, filepath.Dir(conf)) {
		t.Errorf("without a configuration: %v", c)
	}
	if _, err := i.TryRunPod(i.PodConfig()); err == nil || !strings.Contains(err.Error(), "there is no CNI configuration") {
		t.Errorf("a pod without a network: %v", err)
	}
	if err := os.WriteFile(conf, []byte(bridge(conf)), 0o644); err != nil {
		t.Fatal(err)
	}
	i.Wait("the network to be ready", func() bool { return networkReady(t, i).Status })
	pod := i.RunPod()
	server := pod.Run("server", i.Image(probe), run("serve-http", "8080", "hello"))
	server.WaitOutput("ready")
	address := addresses(t, pod)[0]
	if !strings.HasPrefix(address, "10.89.0.") {
		t.Errorf("the pod has %s", address)
	}
	equal(t, "page from the node", fetch(t, i.Node, address, 8080, "/"), "hello")
	if err := os.WriteFile(conf, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	i.Wait("the broken file to be named", func() bool {
		c := networkReady(t, i)
		return c.Status && strings.Contains(c.Message, conf+": it is not JSON")
	})
	report, err := i.Command("doctor", "network", "--state", i.State).CombinedOutput()
	for _, want := range []string{"serves    cni: the configuration says mode = cni", "ready     yes", conf + ": cannot be used", "network pods serves as last read", "1 attached"} {
		if err != nil || !strings.Contains(string(report), want) {
			t.Errorf("doctor network does not say %q (%v):\n%s", want, err, report)
		}
	}
	i.Restart()
	equal(t, "page after a restart", fetch(t, i.Node, address, 8080, "/"), "hello")
	client := i.RunPod()
	other := client.Run("client", i.Image(probe), run("get", "http://"+join(address, 8080)))
	equal(t, "exit code of a pod made with the last good configuration", other.WaitExit().ExitCode, 0)

	// A DEL that hangs: the containers die before it.
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		_, err := i.Runtime.StopPodSandbox(i.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.ID})
		stopped <- err
	}()
	i.Wait("DEL to hang", func() bool { _, err := os.Stat(gate + ".seen"); return err == nil })
	equal(t, "the container's state while DEL hangs", server.Status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "NetworkReady while DEL hangs", networkReady(t, i).Status, true)
	select {
	case err := <-stopped:
		t.Errorf("StopPodSandbox did not wait for DEL: %v", err)
	default:
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	for _, p := range []*harness.Pod{pod, client} {
		p.Remove()
	}
	err = i.Node.Do(func() error { // what the plugins leave for the next pod
		link, err := netlink.LinkByName("cni0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkDel(link), osexec.Command("nft", "delete", "table", "ip", "nat").Run())
	})
	if err != nil {
		t.Error(err)
	}
}
