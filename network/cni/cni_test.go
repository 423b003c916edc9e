package cni

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network"
)

func TestPluginsGetWhatOthersSend(t *testing.T) {
	s := newScene(t)
	t.Setenv("NOTIFY_SOCKET", "/run/mine")
	all := map[string]any{"capabilities": map[string]bool{"portMappings": true, "bandwidth": true, "dns": true, "ips": true, "mac": true,
		"cgroupPath": true, "ipRanges": true, "io.kubernetes.cri.pod-annotations": true}}
	s.write("10-a.conflist", s.list("a", nil, all))
	s.open()
	s.serves("a")
	s.net.SetPodCIDR([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")})
	pod := s.pod()
	pod.Ports = []network.PortMapping{{Protocol: network.UDP, ContainerPort: 53, HostPort: 5353, HostIP: netip.MustParseAddr("192.0.2.2")}, {Protocol: network.TCP, ContainerPort: 80}}
	pod.Annotations = map[string]string{ipsAnnotation: "10.1.0.9, fd00::9/64", macAnnotation: "02:00:00:00:00:09"}
	pod.Bandwidth = network.Bandwidth{Ingress: 100e6, Egress: 1e6}
	pod.DNS = network.DNS{Servers: []string{"10.96.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}}
	pod.CgroupParent = "/kubepods/pod1"
	got, err := s.attach(pod)
	if err != nil || got.Interface != "eth0" || len(got.IPs) != 1 || got.IPs[0].String() != "192.0.2.77" {
		t.Fatal(got, err)
	}
	c := s.calls("ADD")[0]
	args := "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=" + pod.ID + ";K8S_POD_UID=u-1"
	if c.Args != args || c.ContainerID != pod.ID || c.NetNS != pod.NetNSPath || c.IfName != "eth0" || c.Path != s.bin || c.Notify != "" {
		t.Errorf("called with %+v", c)
	}
	want := map[string]any{
		"portMappings": []any{map[string]any{"hostPort": 5353.0, "containerPort": 53.0, "protocol": "udp", "hostIP": "192.0.2.2"}},
		"bandwidth":    map[string]any{"ingressRate": 100e6, "ingressBurst": 10e6, "egressRate": 1e6, "egressBurst": 524288.0},
		"dns":          map[string]any{"servers": []any{"10.96.0.10"}, "searches": []any{"svc"}, "options": []any{"ndots:5"}},
		"ips":          []any{"10.1.0.9", "fd00::9/64"}, "mac": "02:00:00:00:00:09", "cgroupPath": "/kubepods/pod1",
		"ipRanges":                          []any{[]any{map[string]any{"subnet": "10.1.0.0/24"}}, []any{map[string]any{"subnet": "fd00::/64"}}},
		"io.kubernetes.cri.pod-annotations": map[string]any{ipsAnnotation: "10.1.0.9, fd00::9/64", macAnnotation: "02:00:00:00:00:09"},
	}
	if !reflect.DeepEqual(c.Stdin["runtimeConfig"], want) {
		t.Errorf("runtimeConfig is\n%v, want\n%v", c.Stdin["runtimeConfig"], want)
	}
	if err := s.net.Detach(context.Background(), pod.ID); err != nil {
		t.Fatal(err)
	}
	d := s.calls("DEL")[0]
	if d.Args != c.Args || d.NetNS != c.NetNS || !reflect.DeepEqual(d.Stdin["runtimeConfig"], want) || d.Stdin["prevResult"] == nil {
		t.Errorf("DEL was called with %+v", d)
	}
	if left := s.net.journal.all(); len(left) != 0 {
		t.Errorf("left %+v", left)
	}
}

func TestOnlyDeclaredCapabilities(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, map[string]any{"capabilities": map[string]bool{"dns": true, "mac": false}}))
	s.open()
	pod := s.pod()
	pod.DNS.Servers, pod.Annotations = []string{"1.1.1.1"}, map[string]string{macAnnotation: "02:00:00:00:00:09"}
	if _, err := s.attach(pod); err != nil {
		t.Fatal(err)
	}
	if got := s.calls("ADD")[0].Stdin["runtimeConfig"]; !reflect.DeepEqual(got, map[string]any{"dns": map[string]any{"servers": []any{"1.1.1.1"}}}) {
		t.Errorf("runtimeConfig is %v", got)
	}
}

func TestArgumentsCannotBeSmuggled(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	pod := s.pod()
	pod.Name = "x;K8S_POD_NAMESPACE=kube-system"
	if _, err := s.attach(pod); err == nil || len(s.calls("ADD")) > 0 {
		t.Errorf("%v, %d ADDs", err, len(s.calls("ADD")))
	}
}

func TestSeveralInterfaces(t *testing.T) {
	s := newScene(t)
	result := `{"cniVersion":"1.1.0","interfaces":[{"name":"br0"},{"name":"veth1"},{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1400,"sandbox":"NETNS"},
		{"name":"net1","sandbox":"NETNS"},{"name":"ifb1"}],"ips":[{"interface":3,"address":"198.51.100.7/24"},{"interface":2,"address":"2001:db8::7/64"},
		{"interface":2,"address":"192.0.2.7/24"},{"interface":0,"address":"192.0.2.1/24"}]}`
	s.write("10-a.conflist", strings.Replace(s.list("a", nil, nil), `"type"`, `"result":`+result+`,"type"`, 1))
	s.open()
	got, err := s.attach(s.pod())
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr
	want := network.Result{IPs: []netip.Addr{ip("2001:db8::7"), ip("192.0.2.7")}, Interface: "eth0", HostLink: "veth1", MAC: "02:00:00:00:00:01", MTU: 1400,
		Interfaces: []network.Interface{{Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1400, IPs: []netip.Addr{ip("2001:db8::7"), ip("192.0.2.7")}},
			{Name: "net1", IPs: []netip.Addr{ip("198.51.100.7")}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBadPluginsDoNotHoldAnybodyUp(t *testing.T) {
	for mode, want := range map[string]string{
		"hang": "CNI ADD took longer than 5s", "child": "CNI ADD took longer than 5s", "crash": "signal: killed",
		"garbage": "cannot", "flood": "printed more than 1048576 bytes", "unready": "the agent is away",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // those that hang wait together
			s := newScene(t)
			if strings.Contains(want, "took longer") {
				s.cfg.Timing.Add = hung
			}
			s.write("10-a.conflist", s.list("a", map[string]string{"ADD": mode}, nil))
			s.open()
			pod := s.pod()
			began := time.Now()
			_, err := s.attach(pod)
			if err == nil || mode != "garbage" && !strings.Contains(err.Error(), want) || len(err.Error()) > 4096 {
				t.Errorf("error %v, want %q", err, want)
			}
			if took := time.Since(began); took > patience {
				t.Errorf("it took %s", took)
			}
			group := s.calls("ADD")[0].PID
			until(t, "the plugin's processes are gone", func() bool { return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) })
			if err := s.net.Detach(context.Background(), pod.ID); err != nil || len(s.calls("DEL")) != 1 {
				t.Errorf("%v, %d DELs", err, len(s.calls("DEL")))
			}
		})
	}
}

// A plugin may leave a daemon behind that keeps its pipes.
func TestPluginsChildDoesNotHoldTheResult(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", map[string]string{"ADD": "orphan"}, nil))
	s.open()
	began := time.Now()
	if _, err := s.attach(s.pod()); err != nil { // at its deadline it would have been killed
		t.Error(err, time.Since(began))
	}
	_ = syscall.Kill(-s.calls("ADD")[0].PID, syscall.SIGKILL)
}

func TestFailedDelIsRepeated(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", map[string]string{"DEL": "fail 3"}, nil))
	s.open()
	pod := s.pod()
	if _, err := s.attach(pod); err != nil {
		t.Fatal(err)
	}
	if err := s.net.Detach(context.Background(), pod.ID); err != nil {
		t.Fatal("the pod does not end:", err)
	}
	until(t, "the attachment is gone", func() bool { return !s.net.Attached(pod.ID) })
	if n := len(s.calls("DEL")); n != 4 {
		t.Errorf("%d DELs, want 4", n)
	}
}

// Whatever a plugin does at DEL: the pod ends, and the journal knows why it is not done.
func TestBadDelsAreInTheJournal(t *testing.T) {
	for mode, want := range map[string]string{
		"hang": "CNI DEL took longer than 5s", "crash": "signal: killed", "garbage": "this is no JSON", "flood": "printed more than 1048576 bytes",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.cfg.Timing.RetryFirst, s.cfg.Timing.RetryMost = time.Hour, time.Hour
			if strings.Contains(want, "took longer") {
				s.cfg.Timing.Del = hung
			}
			s.write("10-a.conflist", s.list("a", map[string]string{"DEL": mode}, nil))
			s.open()
			pod := s.pod()
			if _, err := s.attach(pod); err != nil {
				t.Fatal(err)
			}
			if err := s.net.Detach(context.Background(), pod.ID); err != nil {
				t.Error("the pod does not end:", err)
			}
			one, known := s.net.journal.get(pod.ID)
			if !known || !one.Leaving || one.Attempts != 1 || !strings.Contains(one.LastError, want) || len(one.LastError) > 4096 {
				t.Errorf("journal has %+v, want %q", one, want)
			}
		})
	}
}

// A record that cannot be read is one bad record: it is set aside, the others count.
func TestBadRecordIsSetAside(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	good, bad := s.pod(), s.pod()
	for _, pod := range []network.Pod{good, bad} {
		if _, err := s.attach(pod); err != nil {
			t.Fatal(err)
		}
	}
	s.net.Close()
	put(t, s.cfg.Dir+"/attached/"+bad.ID, "{")
	s.open()
	if !s.net.Attached(good.ID) || s.net.Attached(bad.ID) {
		t.Errorf("attached: %t and %t", s.net.Attached(good.ID), s.net.Attached(bad.ID))
	}
	if _, err := os.Stat(s.cfg.Dir + "/attached/" + bad.ID + ".bad"); err != nil {
		t.Error(err)
	}
	if err := s.net.Detach(context.Background(), good.ID, bad.ID); err != nil {
		t.Error(err)
	}
}

// TestUnfinishedRecord: what a daemon that died while it wrote a record left does not stay.
func TestUnfinishedRecord(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, strings.Repeat("a", 64)+".tmp")
	if err := os.WriteFile(left, []byte(`{"version":`), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.dir.Close()
	if exists(left) || len(j.all()) != 0 {
		t.Errorf("it is there: %v, attachments %v", exists(left), j.all())
	}
}

func TestDelIsRepeatedByTheNextDaemon(t *testing.T) {
	s := newScene(t)
	s.cfg.Timing.Del = hung
	s.write("10-a.conflist", s.list("a", map[string]string{"DEL": "hang"}, nil))
	s.open()
	pod := s.pod()
	if _, err := s.attach(pod); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.net.Detach(context.Background(), pod.ID); err != nil || time.Since(began) > patience {
		t.Fatal(err, time.Since(began))
	}
	if one, ok := s.net.journal.get(pod.ID); !ok || !one.Leaving || !strings.Contains(one.LastError, "CNI DEL took longer") {
		t.Fatalf("journal has %+v", one)
	}
	s.net.Close()
	s.cfg.Timing.Del = patience
	os.Remove(pod.NetNSPath) // the pod's namespace ended
	one, err := os.ReadFile(s.cfg.Dir + "/attached/" + pod.ID)
	if err != nil {
		t.Fatal(err)
	}
	healed := strings.Replace(string(one), `"hang"`, `"ok"`, 1)
	put(t, s.cfg.Dir+"/attached/"+pod.ID, healed)
	os.Remove(s.conf + "/10-a.conflist") // the network is not configured any more
	before := len(s.calls("DEL"))
	s.open()
	until(t, "the attachment is gone", func() bool { return !s.net.Attached(pod.ID) })
	after := s.calls("DEL")
	if len(after) != before+1 || after[before].NetNS != "" {
		t.Errorf("DELs %+v", after[before:])
	}
}

func TestVanishedPluginIsNamed(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	s.serves("a")
	pod := s.pod()
	if _, err := s.attach(pod); err != nil {
		t.Fatal(err)
	}
	os.Remove(s.bin + "/fake")
	want := "plugin fake is not an executable file in " + s.bin
	until(t, "Ready names the plugin", func() bool { err := s.net.Ready(); return err != nil && strings.Contains(err.Error(), want) })
	if _, err := s.attach(s.pod()); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	if err := s.net.Detach(context.Background(), pod.ID); err != nil {
		t.Fatal(err)
	}
	if one, _ := s.net.journal.get(pod.ID); !strings.Contains(one.LastError, want) {
		t.Errorf("journal has %+v", one)
	}
	s.install("fake")
	s.serves("a")
	until(t, "the attachment is gone", func() bool { return !s.net.Attached(pod.ID) })
}

func TestAttachIsIdempotent(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	pod := s.pod()
	first, err := s.attach(pod)
	if err != nil {
		t.Fatal(err)
	}
	s.net.Close()
	s.open()
	second, err := s.attach(pod)
	if err != nil || !reflect.DeepEqual(first, second) || len(s.calls("ADD")) != 1 {
		t.Errorf("%+v, %+v, %v, %d ADDs", first, second, err, len(s.calls("ADD")))
	}
}

func TestStatusIsCachedWithHysteresis(t *testing.T) {
	s := newScene(t)
	s.cfg.Timing.Status = 3 * time.Second
	s.write("10-a.conflist", s.list("a", map[string]string{"STATUS": "hang"}, nil))
	s.open()
	if err := s.net.Ready(); err == nil {
		t.Error("ready before STATUS answered")
	}
	until(t, "STATUS timed out", func() bool {
		err := s.net.Ready()
		return err != nil && strings.Contains(err.Error(), "CNI STATUS took longer")
	})
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.serves("a")
	state := status{}
	fail := errors.New("away")
	for i, step := range []struct {
		err   error
		ready bool
	}{{fail, false}, {nil, true}, {fail, true}, {fail, true}, {nil, true}, {fail, true}, {fail, true}, {fail, false}, {fail, false}, {nil, true}} {
		if state = state.after(step.err); state.ready != step.ready {
			t.Errorf("answer %d: ready %t", i, state.ready)
		}
	}
}

// However often it is asked whether the network is ready: no plugin runs for that.
func TestReadyRunsNoPlugin(t *testing.T) {
	s := newScene(t)
	s.cfg.Timing.StatusEvery = time.Hour
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	s.serves("a")
	asked := len(s.calls("STATUS"))
	for range 1000 {
		if err := s.net.Ready(); err != nil {
			t.Fatal(err)
		}
		s.net.Note()
	}
	s.net.Report()
	if now := len(s.calls("STATUS")); asked == 0 || now != asked {
		t.Errorf("STATUS ran %d times, then %d", asked, now)
	}
}

func TestGC(t *testing.T) {
	s := newScene(t)
	s.cfg.Timing.GCEvery = 30 * time.Millisecond
	s.write("10-a.conflist", s.list("a", map[string]string{"DEL": "fail 1000"}, nil))
	s.open()
	kept, left := s.pod(), s.pod()
	kept.ID, left.ID = strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, pod := range []network.Pod{kept, left} {
		if _, err := s.attach(pod); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.calls("GC")); n != 0 {
		t.Fatalf("%d GCs before the pods are known", n)
	}
	if err := s.net.Sweep(context.Background(), func(id string) bool { return id == kept.ID[:8] }); err != nil {
		t.Fatal(err)
	}
	until(t, "GC ran twice", func() bool { return len(s.calls("GC")) >= 2 })
	want := []any{map[string]any{"containerID": kept.ID, "ifname": "eth0"}}
	if got := s.calls("GC")[0].Stdin["cni.dev/valid-attachments"]; !reflect.DeepEqual(got, want) {
		t.Errorf("valid attachments %v, want %v", got, want)
	}
	until(t, "DEL was tried for who nobody knows", func() bool { return len(s.calls("DEL")) > 0 })
	for _, c := range s.calls("DEL") {
		if c.ContainerID != left.ID {
			t.Errorf("DEL for %s", c.ContainerID)
		}
	}
}

// TestSweepIsNoGC: pods are looked through every minute, the plugins' GC has a time of
// its own.
func TestSweepIsNoGC(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	sweep := func() {
		t.Helper()
		if err := s.net.Sweep(context.Background(), func(string) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	until(t, "GC ran", func() bool { return len(s.calls("GC")) == 1 })
	for range 10 {
		sweep()
		if _, err := s.attach(s.pod()); err != nil { // waits for a GC that is under way
			t.Fatal(err)
		}
	}
	if n := len(s.calls("GC")); n != 1 {
		t.Errorf("%d GCs", n)
	}
}

// TestWaitForGCEnds: who waits for the plugins' GC goes away with his context, and a
// DEL that did not come to run is repeated.
func TestWaitForGCEnds(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", map[string]string{"GC": "hang"}, nil))
	s.open()
	there := s.pod()
	if _, err := s.attach(there); err != nil {
		t.Fatal(err)
	}
	if err := s.net.Sweep(t.Context(), func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	until(t, "GC runs", func() bool { return len(s.calls("GC")) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.net.Attach(ctx, s.pod()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ADD: %v", err)
	}
	if err := s.net.Detach(ctx, there.ID); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if syscall.Kill(s.calls("GC")[0].PID, syscall.SIGKILL) != nil {
		t.Error("they waited for GC")
	}
	until(t, "DEL ran", func() bool { return len(s.calls("DEL")) == 1 && s.net.Pending() == 0 })
	if n := len(s.calls("ADD")); n != 1 {
		t.Errorf("%d ADDs", n)
	}
}
