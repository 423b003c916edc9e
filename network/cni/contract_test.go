package cni

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/networktest"
)

// referencePlugins is where Debian's containernetworking-plugins puts them.
const referencePlugins = "/usr/lib/cni"

// bridgeNetwork is the usual chain: bridge, host-local, portmap and bandwidth.
func bridgeNetwork(dir string) string {
	list := map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": []any{
		map[string]any{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
			"ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(dir, "ipam"),
				"ranges": []any{[]any{map[string]string{"subnet": "10.89.0.0/24"}}, []any{map[string]string{"subnet": "fd00:89::/64"}}},
				"routes": []any{map[string]string{"dst": "0.0.0.0/0"}, map[string]string{"dst": "::/0"}}}},
		map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
		map[string]any{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}},
	}}
	text, _ := json.Marshal(list)
	return string(text)
}

// reference opens a Network with the reference plugins, in dir.
func reference(t testing.TB, dir string) *Network {
	if _, err := os.Stat(referencePlugins + "/bridge"); err != nil {
		t.Fatal("hack/setup.sh test installs the reference plugins:", err)
	}
	conf := filepath.Join(dir, "net.d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf+"/10-pods.conflist", []byte(bridgeNetwork(dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := Open(Config{ConfDirs: []string{conf}, BinDirs: []string{referencePlugins}, Dir: dir + "/lib", Timing: Timing{Add: time.Minute, Del: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestContract(t *testing.T) {
	dirs := map[testing.TB]string{}
	networktest.Contract(t, func(t testing.TB) network.Network {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		return reference(t, dirs[t])
	})
}

// rules is every rule of the node, without counters. It runs in its namespace.
func rules() string {
	out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func TestFiftyPodsLeaveNothing(t *testing.T) {
	l := networktest.New(t)
	dir := t.TempDir()
	l.Open(func(t testing.TB) network.Network { return reference(t, dir) })
	ports := []network.PortMapping{{Protocol: network.TCP, ContainerPort: 80, HostPort: 8080}}
	first := l.Pod(ports...) // makes bridge and chains, which the plugins leave
	if err := l.Detach(first); err != nil {
		t.Fatal(err)
	}
	l.End(first)
	until(t, "the first pod's namespace is gone", func() bool { return strings.Contains(l.State(rules), "lead to: 1\n") }) // outside
	before := l.State(rules)
	var pods []*networktest.Pod
	seen := map[string]bool{}
	for range 50 {
		p := l.Pod()
		if ip := l.Addr(p, true); seen[ip] {
			t.Errorf("%s twice", ip)
		} else {
			seen[ip] = true
		}
		pods = append(pods, p)
	}
	for _, p := range pods {
		if err := l.Detach(p); err != nil {
			t.Fatal(err)
		}
		l.End(p)
	}
	var after string
	for deadline := time.Now().Add(patience); after != before && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		after = l.State(rules) // the kernel ends the namespaces
	}
	if after != before {
		t.Errorf("left:\n%s\nbefore:\n%s", after, before)
	}
	leases, err := os.ReadDir(dir + "/ipam/pods")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range leases {
		if f.Name() != "lock" && !strings.HasPrefix(f.Name(), "last_reserved_ip") {
			t.Errorf("lease %s is left", f.Name())
		}
	}
	for _, sub := range []string{"attached", "cache/results"} {
		if left, err := os.ReadDir(dir + "/lib/" + sub); err != nil || len(left) > 0 {
			t.Errorf("%s has %v, %v", sub, left, err)
		}
	}
	if err := l.Net.Sweep(context.Background(), func(string) bool { return false }); err != nil {
		t.Error(err)
	}
}
