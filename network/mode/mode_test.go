package mode

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network/cni"
	"github.com/cri-box/cri-box/network/networktest"
	"github.com/cri-box/cri-box/network/routed"
)

// A scene is a node on which one mode follows the other. The plugins are the
// reference ones, so that what serves is told by the pods' addresses and packets.
type scene struct {
	*networktest.Lab
	t    *testing.T
	dir  string
	conf string
	cfg  Config
}

// patience is for what has to come, also on a busy machine.
const patience = 30 * time.Second

const (
	embedded4 = "10.88."
	plugins4  = "10.89.0."
)

func newScene(t *testing.T) *scene {
	dir := t.TempDir()
	return &scene{Lab: networktest.New(t), t: t, dir: dir, conf: dir + "/net.d", cfg: Config{Dir: dir + "/network",
		Routed: routed.Config{Instance: "cri-box", StateDir: dir + "/state"},
		CNI: cni.Config{ConfDirs: []string{dir + "/net.d"}, BinDirs: []string{"/usr/lib/cni"}, Dir: dir + "/network/cni",
			Timing: cni.Timing{Settle: time.Millisecond, RetryFirst: time.Millisecond}}}}
}

// start ends the daemon's network before and opens one in this mode.
func (s *scene) start(mode string) *Network {
	s.t.Helper()
	if s.Net != nil {
		if err := s.Net.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	s.cfg.Mode = mode
	var n *Network
	s.In(s.Node, func() (err error) {
		n, err = Open(s.cfg)
		return err
	})
	s.Net = n
	s.t.Cleanup(func() { n.Close() })
	return n
}

func (s *scene) configure() {
	s.t.Helper()
	plugin := map[string]any{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": s.dir + "/ipam", "ranges": []any{[]any{map[string]string{"subnet": "10.89.0.0/24"}}},
			"routes": []any{map[string]string{"dst": "0.0.0.0/0"}}}}
	text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": []any{plugin}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(s.conf, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.conf+"/10-pods.conflist", text, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// pod attaches a pod, sees by its address who did it, and that it answers.
func (s *scene) pod(prefix string) *networktest.Pod {
	s.t.Helper()
	p := s.Pod()
	if ip := s.Addr(p, true); !strings.HasPrefix(ip, prefix) {
		s.t.Fatalf("the pod has %s, want %s…", ip, prefix)
	}
	s.Serve(p.NetNS, "pod", ":80")
	s.answers(p)
	return p
}

func (s *scene) answers(p *networktest.Pod) {
	s.t.Helper()
	if got, err := s.Ask(s.Node, "tcp", s.Addr(p, true), "80", patience); err != nil || !strings.HasPrefix(got, "pod ") {
		s.t.Errorf("%s answered %q, %v", s.Addr(p, true), got, err)
	}
}

// gone detaches a pod and sees that nothing is recorded of it.
func (s *scene) gone(p *networktest.Pod) {
	s.t.Helper()
	if err := s.Detach(p); err != nil {
		s.t.Fatal(err)
	}
	for _, path := range []string{s.dir + "/state/ipam/" + p.ID, s.dir + "/network/cni/attached/" + p.ID, s.dir + "/ipam/pods/" + p.IPs[0].String()} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			s.t.Errorf("%s is left (%v)", filepath.Base(path), err)
		}
	}
	if got, err := s.Ask(s.Node, "tcp", s.Addr(p, true), "80", time.Second); err == nil {
		s.t.Errorf("a detached pod answered %q", got)
	}
}

func (s *scene) until(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func (s *scene) notReady(n *Network, want string) {
	s.t.Helper()
	if err := n.Ready(); err == nil || !strings.Contains(err.Error(), want) {
		s.t.Errorf("Ready says %v, want %q", err, want)
	}
}

// Auto goes from embedded to plugins without a restart, and never back.
func TestAuto(t *testing.T) {
	s := newScene(t)
	n := s.start(Auto)
	a := s.pod(embedded4)
	if r := n.Report(); r.Serves != Embedded || r.NotReady != "" || r.Pods != 1 || !strings.Contains(r.Why, "no CNI configuration") {
		t.Errorf("report %+v", r)
	}
	s.configure()
	s.until("plugins serve", func() bool { return n.Report().Serves == CNI && n.Ready() == nil })
	s.answers(a) // an embedded pod lives on
	if err := os.RemoveAll(s.conf); err != nil {
		t.Fatal(err)
	}
	s.until("embedded serves: plugins attached nobody yet", func() bool { return n.Report().Serves == Embedded })
	b := s.pod(embedded4)
	s.configure()
	s.until("plugins serve", func() bool { return n.Report().Serves == CNI && n.Ready() == nil })
	c := s.pod(plugins4)
	s.answers(a)
	s.gone(b)
	if err := os.RemoveAll(s.conf); err != nil {
		t.Fatal(err)
	}
	s.until("nothing serves", func() bool { return n.Ready() != nil })
	s.notReady(n, s.conf)
	n = s.start(Auto) // also not after a restart
	s.notReady(n, s.conf)
	if r := n.Report(); r.Serves != CNI || !strings.Contains(r.Why, "does not go back") {
		t.Errorf("report %+v", r)
	}
	s.answers(a)
	s.answers(c)
	s.gone(a)
	s.gone(c)
}

// What was made ahead for the embedded network is out of the plugins' way, and after a
// new range out of the new network's.
func TestLinkMadeAheadOfAChange(t *testing.T) {
	ahead := func(s *scene, n *Network) *networktest.Pod {
		t.Helper()
		p := s.Prepare()
		link, err := n.Ahead(t.Context(), p.ID, p.NetNS)
		if err != nil || link == nil {
			t.Fatalf("made ahead: %v, %v", link, err)
		}
		p.Link = link
		return p
	}
	attach := func(s *scene, p *networktest.Pod, prefix string) {
		t.Helper()
		if err := s.Attach(p); err != nil {
			t.Fatal(err)
		}
		if ip := s.Addr(p, true); !strings.HasPrefix(ip, prefix) {
			t.Fatalf("the pod has %s, want %s…", ip, prefix)
		}
		s.Serve(p.NetNS, "pod", ":80")
		s.answers(p)
		s.gone(p)
	}
	s := newScene(t)
	n := s.start(Auto)
	p := ahead(s, n)
	s.configure()
	s.until("plugins serve", func() bool { return n.Report().Serves == CNI && n.Ready() == nil })
	if link, err := n.Ahead(t.Context(), p.ID, p.NetNS); link != nil || err != nil {
		t.Errorf("for plugins: %v, %v", link, err)
	}
	attach(s, p, plugins4)

	s = newScene(t)
	s.cfg.KubeletCIDR = true
	n = s.start(Embedded)
	if link, err := n.Ahead(t.Context(), s.Prepare().ID, s.Node); link != nil || err != nil {
		t.Errorf("without a range: %v, %v", link, err)
	}
	for _, prefix := range []string{"10.1.2.", "10.1.3."} {
		s.In(s.Node, func() error { return n.SetPodCIDR(prefix + "0/24") })
		if p != nil && p.IPs == nil {
			attach(s, p, prefix)
		}
		p = ahead(s, n)
	}
}

func TestEmbeddedIgnoresTheDirectory(t *testing.T) {
	s := newScene(t)
	s.configure()
	s.start(Embedded)
	s.gone(s.pod(embedded4))
}

func TestCNIWaitsForAConfiguration(t *testing.T) {
	s := newScene(t)
	n := s.start(CNI)
	s.notReady(n, "there is no CNI configuration in "+s.conf)
	if err := s.Attach(s.Prepare()); err == nil {
		t.Error("a pod was attached without a configuration")
	}
	if text := s.State(func() string { return "" }); strings.Contains(text, "link cb") {
		t.Errorf("the embedded network has touched the node:\n%s", text)
	}
	s.configure()
	s.until("plugins serve", func() bool { return n.Ready() == nil })
	s.gone(s.pod(plugins4))
}

// A pod is detached by whoever attached it, whatever the mode is by then.
func TestModeChangesWithPods(t *testing.T) {
	for _, change := range []struct{ from, first, to, then string }{
		{Embedded, embedded4, CNI, plugins4}, {CNI, plugins4, Embedded, embedded4},
		{Embedded, embedded4, Auto, plugins4}, {CNI, plugins4, Auto, plugins4}, {Auto, plugins4, Embedded, embedded4}, {Auto, plugins4, CNI, plugins4},
	} {
		t.Run(change.from+" to "+change.to, func(t *testing.T) {
			s := newScene(t)
			s.configure()
			s.start(change.from)
			a := s.pod(change.first)
			s.start(change.to)
			b := s.pod(change.then)
			s.answers(a)
			s.gone(a)
			s.answers(b)
			s.gone(b)
		})
	}
}

func TestKubeletGivesTheRange(t *testing.T) {
	s := newScene(t)
	s.cfg.KubeletCIDR = true
	n := s.start(Embedded)
	s.notReady(n, "has not sent this node's pod CIDR")
	if err := s.Attach(s.Prepare()); err == nil {
		t.Error("a pod was attached without a range")
	}
	for _, text := range []string{"10.1.2.3/24", "10.1.2.0/24,10.1.3.0/24", "nonsense"} {
		if err := n.SetPodCIDR(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	set := func(text string) {
		t.Helper()
		s.In(s.Node, func() error { return n.SetPodCIDR(text) })
		if err := n.Ready(); err != nil {
			t.Fatal(err)
		}
	}
	set("10.77.1.0/24,fd77::/64")
	a := s.pod("10.77.1.")
	if ip := s.Addr(a, false); !strings.HasPrefix(ip, "fd77::") {
		t.Errorf("IPv6 address %s", ip)
	}
	set("")                       // a kubelet that has none
	set("10.77.1.0/24,fd77::/64") // twice
	n = s.start(Embedded)         // the kubelet does not send it again
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	s.answers(a)
	b := s.pod("10.77.1.")
	set("10.78.0.0/24,fd78::/64")
	c := s.pod("10.78.0.")
	for _, p := range []*networktest.Pod{a, b, c} {
		s.answers(p)
		s.gone(p)
	}
}

func TestUnknownMode(t *testing.T) {
	if _, err := Open(Config{Mode: "bridge", Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "auto, embedded or cni") {
		t.Error(err)
	}
}

func TestReportForAPerson(t *testing.T) {
	r := Report{Mode: Auto, Serves: CNI, Why: "there is a CNI configuration that can be used", NotReady: "STATUS failed",
		Ranges: []netip.Prefix{routed.DefaultIPv4, routed.DefaultIPv6}, Pods: 2,
		CNI: &cni.Report{ConfDirs: []string{"/etc/cni/net.d"}, BinDirs: []string{"/opt/cni/bin"}, Network: "a", Serving: "/etc/cni/net.d/10-a.conflist",
			Files:   []cni.FileReport{{File: "/etc/cni/net.d/05-x.conf", Problem: "it is not JSON"}, {File: "/etc/cni/net.d/10-a.conflist", Network: "a", Serves: true}},
			Plugins: []cni.PluginReport{{Type: "bridge", Path: "/opt/cni/bin/bridge"}, {Type: "portmap"}}, Attached: 3,
			Leaving: []cni.LeavingReport{{Pod: strings.Repeat("a", 64), Name: "default/web", Attempts: 2, Error: "away"}}}}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `mode      auto
serves    cni: there is a CNI configuration that can be used
ready     no: STATUS failed
embedded  2 pods in [10.88.0.0/16 fd63:7269:626f:7800::/64]
files     in [/etc/cni/net.d]
          /etc/cni/net.d/05-x.conf: cannot be used: it is not JSON
        * /etc/cni/net.d/10-a.conflist: network a
plugins   in [/opt/cni/bin]
          bridge: /opt/cni/bin/bridge
          portmap: MISSING
pods      3 attached, 1 whose DEL has not succeeded
          default/web (aaaaaaaaaaaa): 2 attempts, next 0001-01-01T00:00:00Z: away
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

// A plugin that hangs holds up neither Status nor the kubelet's range.
func TestHungPluginHoldsNobodyUp(t *testing.T) {
	s := newScene(t)
	s.cfg.CNI.BinDirs = []string{s.dir}
	started := s.dir + "/started"
	script := "#!/bin/sh\ntouch " + started + "\nsleep 1000\n"
	if err := os.WriteFile(s.dir+"/bridge", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s.configure()
	n := s.start(CNI)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	pod := s.Prepare()
	go func() {
		_, err := n.Attach(ctx, pod.Pod)
		done <- err
	}()
	s.until("the plugin hangs", func() bool { _, err := os.Stat(started); return err == nil })
	began := time.Now()
	if err := n.SetPodCIDR("10.77.0.0/24"); err != nil {
		t.Error(err)
	}
	if err := n.Ready(); err != nil || time.Since(began) > patience { // the plugin has two minutes
		t.Errorf("Ready: %v after %s", err, time.Since(began))
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the pod was attached")
	}
}

// A range without room for pods is refused, told, and forgotten: what served goes on,
// and the next daemon waits for a better one.
func TestRangeThatCannotBeUsed(t *testing.T) {
	s := newScene(t)
	s.cfg.KubeletCIDR = true
	n := s.start(Embedded)
	refuse := func() {
		t.Helper()
		s.In(s.Node, func() error {
			if err := n.SetPodCIDR("10.77.1.0/31"); err == nil || !strings.Contains(err.Error(), "fewer than two pods") {
				t.Errorf("SetPodCIDR: %v", err)
			}
			return nil
		})
	}
	refuse()
	s.notReady(n, "fewer than two pods")
	n = s.start(Embedded)
	s.notReady(n, "has not sent this node's pod CIDR")
	s.In(s.Node, func() error { return n.SetPodCIDR("10.77.1.0/24") })
	s.pod("10.77.1.")
	refuse()
	s.pod("10.77.1.")
	// As a daemon that did not look stored it.
	if err := os.WriteFile(n.cidrPath(), []byte("10.77.1.0/31\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n = s.start(Embedded)
	s.In(s.Node, func() error { return n.SetPodCIDR("10.77.1.0/24") })
	s.pod("10.77.1.")
}
