package kubelet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A peer is another runtime in cri-box's place: the same tests on it show that
// they ask for what a kubelet needs, and not for what cri-box does. $CONTAINERD
// is containerd's path; its shim and runc are beside it or on PATH.
type peer struct {
	node   *Node
	binary string
	proc   *exec.Cmd
	ended  chan struct{}
}

// peerConfig of containerd 2: sockets, directories and the pause image are the
// node's, and it may not raise anybody's OOM score.
const peerConfig = `version = 3
root = "%[1]s/containerd"
state = "%[2]s"
[grpc]
address = "%[2]s/cri-box.sock"
[ttrpc]
address = "%[2]s/ttrpc.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "127.0.0.1:5000/pause:latest"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "%[1]s/net.d"
`

// pluginNetwork is a network by plugins.
const pluginNetwork = `{"cniVersion": "1.0.0", "name": "plugins", "plugins": [
	{"type": "bridge", "bridge": "plugins0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// startRuntime starts cri-box, or the peer where one is given.
func (n *Node) startRuntime(t testing.TB, want setup) {
	t.Helper()
	confDir := filepath.Join(n.Dir, "net.d")
	if err := os.Mkdir(confDir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := os.Getenv("CONTAINERD")
	if binary == "" {
		onDisk := func(i *harness.Instance) {
			if want.disk != "" {
				i.Root = filepath.Join(n.Dir, "cri-box")
			}
		}
		opts := []harness.Option{onDisk}
		if want.plugins {
			opts = append(opts, harness.Args("--set", "network.mode=cni", "--set", "network.cni.bin_dirs=['/usr/lib/cni']", "--set", "network.cni.conf_dir="+confDir))
		}
		n.Instance = harness.New(t, opts...)
		return
	}
	n.Instance = harness.Bare(t)
	n.peer = &peer{node: n, binary: binary}
	if err := os.MkdirAll(n.State, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{n.Instance.Dir, n.Dir} { // runc's child walks there as the pod's user
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	n.writeFile(t, "containerd.toml", fmt.Sprintf(peerConfig, n.Dir, n.State))
	if !want.plugins { // it knows no other network
		n.writeNetwork(t)
	}
	program, err := os.ReadFile(harness.Workload(t))
	if err != nil {
		t.Fatal(err)
	}
	pause := n.Push("pause", imagetest.New().File("/pause", 0o755, program).
		Config(func(c *ocispec.ImageConfig) { c.Entrypoint = []string{"/pause", "sleep-forever"} }).Build())
	n.peer.start(t)
	t.Cleanup(func() { n.peer.end(t, syscall.SIGTERM) })
	n.Connect()
	n.wait(t, "containerd to answer", n.Answers)
	n.Pull(pause) // as long as the registry asks for no password
}

// writeNetwork gives the node a network by plugins, as a cluster's does when it comes.
// containerd does not see a file that is moved there.
func (n *Node) writeNetwork(t testing.TB) {
	t.Helper()
	n.writeFile(t, "net.d/plugins.conflist", fmt.Sprintf(pluginNetwork, n.leases()))
}

// leases is where the plugins note which addresses are given away.
func (n *Node) leases() string { return filepath.Join(n.Dir, "leases") }

func (p *peer) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.node.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.binary, "--config", filepath.Join(p.node.Dir, "containerd.toml"))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(p.binary)+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.node.Node.Do(cmd.Start); err != nil {
		t.Fatalf("cannot start containerd: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.proc, p.ended = cmd, ended
}

func (p *peer) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	p.proc.Process.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("containerd did not end within 30 s of %v", sig)
		p.proc.Process.Kill()
		<-p.ended
	}
}

// stopRuntime ends the runtime's daemon by that signal.
func (n *Node) stopRuntime(t testing.TB, sig syscall.Signal) {
	t.Helper()
	switch {
	case n.peer != nil:
		n.peer.end(t, sig)
	case sig == syscall.SIGKILL:
		n.Kill()
	default:
		n.Stop()
	}
}

func (n *Node) startRuntimeAgain(t testing.TB) {
	t.Helper()
	if n.peer != nil {
		n.peer.start(t)
		n.wait(t, "containerd to answer", n.Answers)
		return
	}
	n.Start()
}
