package kubelet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

// The name that the kubelet gives the node, and with it each static pod.
const nodeName = "node1"

// config is the kubelet's configuration: socket, directories and the cgroup below
// which it may make its own are the node's. With KubeletInUserNamespace it goes on
// where it may not raise limits; without utility chains it needs no iptables.
const config = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
staticPodPath: %[2]s/manifests
podLogsDir: %[2]s/podlogs
volumePluginDir: %[2]s/plugins
cgroupRoot: /%[3]s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
healthzPort: 0
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
enforceNodeAllocatable: []
fileCheckFrequency: 1s
maxPods: 200
contentType: application/json
containerLogMaxSize: 1Mi
containerLogMaxFiles: 1000
containerLogMonitorInterval: 3s
featureGates: {KubeletInUserNamespace: true, ContainerStopSignals: true%[4]s}
%[5]s
`

// A setup is what a test wants other than usual.
type setup struct {
	gates   string // further features, such as ", X: true"
	kubelet string // further lines of the kubelet's configuration
	disk    string // a file system of that size for kubelet and runtime, "" for the machine's
	api     bool   // an API server, which gives the pods
	plugins bool   // no network before the test writes that of plugins
}

// thresholds are those of a kubelet whose disk is not the test's matter.
const thresholds = `evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}`

// patience is how long something may take that the kubelet does in seconds on a
// quiet machine.
var patience = 90 * time.Second

func init() {
	if prebuilt() { // an emulated machine
		patience = 6 * time.Minute
	}
}

// A Node is a cri-box, or its peer, with a kubelet on top.
type Node struct {
	*harness.Instance
	peer *peer // nil: the instance is cri-box
	// Dir is the kubelet's: manifests, podlogs, root.
	Dir    string
	cgroup string // of all its pods, as the kubelet calls it
	api    api
	server *apiServer // nil: pods come from manifests
	proc   *exec.Cmd
	ended  chan struct{}
	made   atomic.Int32 // for their names
}

// newNode starts both; when the test ends it removes the pods and looks for what
// is left of them.
func newNode(t testing.TB, want setup) *Node {
	t.Helper()
	binary := kubeletBinary(t)
	tunables := readTunables(t)
	n := &Node{Dir: makeDisk(t, want.disk)}
	n.startRuntime(t, want)
	n.Image("busybox")
	n.Image("probe")
	n.prepare(t, want)
	t.Cleanup(tunables.restore)
	t.Cleanup(func() { n.finish(t) })
	n.startKubelet(t, binary)
	return n
}

// makeDisk makes the kubelet's directory, on a file system of its own if a size
// is given.
func makeDisk(t testing.TB, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if size == "" {
		return dir
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size="+size); err != nil {
		t.Fatalf("cannot make a file system of %s: %v", size, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("cannot unmount the node's disk: %v", err)
		}
	})
	// Else the kubelet binds its own directory onto itself to have it shared, and of
	// a tmpfs that is mounted twice cAdvisor takes now the one and now the other: half
	// of the time the kubelet then believes in a disk of the images' own.
	if err := syscall.Mount("", dir, "", syscall.MS_SHARED, ""); err != nil {
		t.Fatalf("cannot share the node's disk: %v", err)
	}
	return dir
}

// prepare makes the kubelet's directories, its cgroup and its configuration.
func (n *Node) prepare(t testing.TB, want setup) {
	t.Helper()
	for _, name := range []string{"manifests", "podlogs", "links", "plugins", "root"} {
		if err := os.Mkdir(filepath.Join(n.Dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.cgroup = n.Name + "-kubelet"
	n.makeCgroup(t)
	t.Cleanup(func() { n.removeCgroup(t) })
	n.api = newAPI(n.Node)
	if want.api {
		n.server = newAPIServer(t, n)
		want.gates += ", WatchListClient: false" // it lists and then watches
		n.writeFile(t, "kubeconfig", kubeconfig)
	}
	if !strings.Contains(want.kubelet, "evictionHard") {
		want.kubelet += "\n" + thresholds
	}
	n.writeFile(t, "root/config.json", string(credentials()))
	n.writeFile(t, "config.yaml", fmt.Sprintf(config, n.Socket(), n.Dir, n.cgroup, want.gates, want.kubelet))
}

// writeFile makes a file in the kubelet's directory.
func (n *Node) writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startKubelet starts the kubelet and waits until it answers.
func (n *Node) startKubelet(t testing.TB, binary string) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(n.Dir, "kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "--config", filepath.Join(n.Dir, "config.yaml"), "--root-dir", filepath.Join(n.Dir, "root"),
		"--cert-dir", filepath.Join(n.Dir, "pki"), "--hostname-override", nodeName, "--node-ip", harness.NodeIPv4, "-v", "3")
	if n.server != nil {
		cmd.Args = append(cmd.Args, "--kubeconfig", filepath.Join(n.Dir, "kubeconfig"))
	}
	cmd.Env = append(os.Environ(), "CONTAINER_LOGS_DIR="+filepath.Join(n.Dir, "links"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.Node.Do(cmd.Start); err != nil {
		t.Fatalf("cannot start the kubelet: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	n.proc, n.ended = cmd, ended
	n.wait(t, "the kubelet to answer", func() bool {
		select {
		case <-ended:
			t.Fatalf("the kubelet has ended: %v\n%s", cmd.ProcessState, n.tail())
		default:
		}
		_, err := n.api.get("/healthz")
		return err == nil
	})
}

// stopKubelet ends the kubelet; its pods go on.
func (n *Node) stopKubelet(t testing.TB, sig syscall.Signal) {
	t.Helper()
	n.proc.Process.Signal(sig)
	select {
	case <-n.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("the kubelet did not end within 30 s of %v", sig)
		n.proc.Process.Kill()
		<-n.ended
	}
}

// wait repeats cond until it is true: what a kubelet does, no event announces.
func (n *Node) wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !within(patience, cond) {
		t.Fatalf("waited %v in vain for %s\n%s", patience, what, n.tail())
	}
}

func within(d time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(d)
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// tail is the end of the kubelet's log, for a message.
func (n *Node) tail() string {
	text, _ := os.ReadFile(filepath.Join(n.Dir, "kubelet.log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "--- the end of kubelet.log:\n" + strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// finish takes the pods away by their manifests, as an administrator does, and
// ends the kubelet once it has removed their cgroups and volumes.
func (n *Node) finish(t testing.TB) {
	if n.proc == nil {
		return
	}
	n.removePods()
	if !within(patience, func() bool { return len(n.podCgroups()) == 0 }) {
		t.Errorf("cgroups are left of pods that are gone: %q\n%s", n.podCgroups(), n.tail())
	}
	if !within(patience, func() bool { return len(n.mounts()) == 0 }) {
		t.Errorf("mounts are left of pods that are gone: %q", n.mounts())
	}
	n.stopKubelet(t, syscall.SIGTERM)
	for _, m := range append(n.mounts(), filepath.Join(n.Dir, "root")) {
		syscall.Unmount(m, syscall.MNT_DETACH)
	}
	os.Remove("/var/lib/kubelet/device-plugins/kubelet.sock") // no flag places it elsewhere
	for _, dir := range []string{"/var/lib/kubelet/device-plugins", "/var/lib/kubelet"} {
		os.Remove(dir) // unless it is another's
	}
	if t.Failed() {
		if keep := os.Getenv("KEEP_LOGS"); keep != "" {
			exec.Command("cp", filepath.Join(n.Dir, "kubelet.log"), filepath.Join(keep, n.Name+"-kubelet.log")).Run()
			exec.Command("cp", n.Log(), filepath.Join(keep, n.Name+"-serve.log")).Run()
		}
	}
}

// removePods takes away all manifests, or asks for the end of all the API's pods.
func (n *Node) removePods() {
	manifests, _ := filepath.Glob(filepath.Join(n.Dir, "manifests", "*"))
	for _, m := range manifests {
		os.Remove(m)
	}
	if n.server != nil {
		n.server.endPods()
	}
}

// mounts lists what is mounted below the kubelet's own root, which is itself a
// mount that the kubelet makes at its start.
func (n *Node) mounts() (list []string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], n.Dir+"/root/") {
			list = append(list, f[4])
		}
	}
	return list
}

// tunables are the kernel settings that every kubelet changes at its start.
type tunables map[string][]byte

func readTunables(t testing.TB) tunables {
	saved := tunables{}
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		saved[name] = value
	}
	return saved
}

func (saved tunables) restore() {
	for name, value := range saved {
		os.WriteFile("/proc/sys/"+name, value, 0)
	}
}
