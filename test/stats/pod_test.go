package stats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/test/harness"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }

func podStats(t testing.TB, p *harness.Pod) *runtimeapi.LinuxPodSandboxStats {
	t.Helper()
	resp, err := p.Runtime.PodSandboxStats(p.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Stats.Linux
}

// devLine is an interface's line of /proc/PID/net/dev: received bytes, packets,
// errs, drop, fifo, frame, compressed, multicast, and the same transmitted.
func devLine(t *testing.T, c *harness.Container, name string) []uint64 {
	t.Helper()
	for line := range strings.Lines(readFile(t, filepath.Join("/proc", strconv.Itoa(c.PID()), "net/dev"))) {
		if before, after, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(before) == name {
			var out []uint64
			for _, f := range strings.Fields(after) {
				out = append(out, number(t, f))
			}
			return out
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

// TestPodStats: the network's numbers are those of the pod's namespace, the others
// those of its group, and processes are processes.
func TestPodStats(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	server := pod.Run("server", i.Image(probe), run("serve-http", "8080", "hello"))
	tree := pod.Run("tree", i.Image("busybox"), []string{"/bin/busybox", "sh", "-c", "sleep 100000 & sleep 100000 & echo ready; wait"})
	server.WaitOutput("ready")
	tree.WaitOutput("ready")
	for range 3 {
		resp, err := i.Node.Client().Get("http://" + pod.Status().Network.Ip + ":8080/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	low := devLine(t, server, "eth0")
	got := podStats(t, pod)
	high := devLine(t, server, "eth0")
	eth0 := got.Network.GetDefaultInterface()
	if eth0.GetName() != "eth0" || got.Network.GetTimestamp() == 0 || low[0] == 0 || low[8] == 0 {
		t.Fatalf("default interface: %v, %v", got.Network, low)
	}
	between(t, "received", eth0.RxBytes.GetValue(), low[0], high[0])
	between(t, "receive errors", eth0.RxErrors.GetValue(), low[2], high[2])
	between(t, "transmitted", eth0.TxBytes.GetValue(), low[8], high[8])
	between(t, "transmit errors", eth0.TxErrors.GetValue(), low[10], high[10])
	if len(got.Network.Interfaces) != 0 {
		t.Errorf("other interfaces: %v", got.Network.Interfaces)
	}
	between(t, "processes", got.Process.ProcessCount.GetValue(), 4, 4) // the server; a shell with two children
	// A command in a container is one of its processes too.
	count := strings.TrimSpace(tree.MustExec("/bin/busybox", "sh", "-c", "sleep 100000 > /dev/null 2>&1 & echo $!"))
	if count == "" {
		t.Fatal("the command began nothing")
	}
	between(t, "processes with a command's", podStats(t, pod).Process.ProcessCount.GetValue(), 5, 5)
	if len(got.Containers) != 2 || got.Cpu.GetTimestamp() == 0 || got.Memory.GetTimestamp() == 0 {
		t.Fatalf("the pod: %v", got)
	}
	var sum uint64
	for _, c := range got.Containers {
		sum += c.Cpu.UsageCoreNanoSeconds.GetValue()
	}
	between(t, "the containers' processor time", sum, 1, podStats(t, pod).Cpu.UsageCoreNanoSeconds.GetValue())
}

// TestOtherInterfaces: what a plugin added beside eth0 is told by itself.
func TestOtherInterfaces(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(probe), sleeper)
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = netns.Do(int(ns.Fd()), func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}, PeerName: "net2"}); err != nil {
			return err
		}
		for _, name := range []string{"net1", "net2"} { // which makes IPv6 speak on both
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	i.Wait("something to be sent", func() bool { return devLine(t, c, "net1")[8] > 0 })
	low := devLine(t, c, "net1")[8]
	got := podStats(t, pod).Network
	if got.DefaultInterface.GetName() != "eth0" || len(got.Interfaces) != 2 {
		t.Fatalf("interfaces: %v", got)
	}
	for _, one := range got.Interfaces {
		if one.Name == "net1" {
			between(t, "transmitted by net1", one.TxBytes.GetValue(), low, devLine(t, c, "net1")[8])
			return
		}
	}
	t.Errorf("net1 is not among %v", got.Interfaces)
}

// TestPodStatsOfEveryState: without containers, on the node's network, stopped,
// removed, and the kubelet's question whether the call exists.
func TestPodStatsOfEveryState(t *testing.T) {
	i := harness.New(t)
	empty := i.RunPod()
	if got := podStats(t, empty); got.Network.GetDefaultInterface().GetName() != "eth0" || len(got.Containers) != 0 {
		t.Errorf("an empty pod: %v", got)
	}
	node := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	})
	node.Run("c", i.Image(probe), sleeper)
	if got := podStats(t, node); got.Network != nil || got.Process.ProcessCount.GetValue() != 1 {
		t.Errorf("on the node's network: %v", got)
	}
	shared := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		c.Labels = map[string]string{"is": "shared"}
	})
	c := shared.Run("c", i.Image(probe), sleeper)
	between(t, "processes with the pod's init", podStats(t, shared).Process.ProcessCount.GetValue(), 2, 2)
	c.Remove()
	plain := i.RunPod()
	c = plain.Run("c", i.Image(probe), sleeper)
	between(t, "processes", podStats(t, plain).Process.GetProcessCount().GetValue(), 1, 1)
	c.Remove() // the pod's group goes with its last container, and comes back
	plain.Run("d", i.Image(probe), sleeper)
	between(t, "processes of the group that came back", podStats(t, plain).Process.GetProcessCount().GetValue(), 1, 1)
	empty.Stop()
	if got := podStats(t, empty); got.Network != nil || got.Cpu != nil {
		t.Errorf("a stopped pod: %v", got)
	}
	list := func(f *runtimeapi.PodSandboxStatsFilter) []string {
		resp, err := i.Runtime.ListPodSandboxStats(i.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		streamed := all(t, (*runtimeapi.StreamPodSandboxStatsResponse).GetPodSandboxStats, func() (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxStatsResponse], error) {
			return i.Runtime.StreamPodSandboxStats(i.Context(), &runtimeapi.StreamPodSandboxStatsRequest{Filter: f})
		})
		name := func(s *runtimeapi.PodSandboxStats) string { return s.Attributes.Id }
		same(t, "streamed", ids(streamed, name), ids(resp.Stats, name))
		return ids(resp.Stats, name)
	}
	same(t, "all", list(nil), []string{empty.ID, node.ID, shared.ID, plain.ID})
	same(t, "by id", list(&runtimeapi.PodSandboxStatsFilter{Id: node.ID}), []string{node.ID})
	same(t, "by label", list(&runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"is": "shared"}}), []string{shared.ID})
	empty.Remove()
	for _, id := range []string{empty.ID, ""} { // "" is how the kubelet asks whether there is such a call
		_, err := i.Runtime.PodSandboxStats(i.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
		if !isNotFound(err) {
			t.Errorf("of pod %q: %v", id, err)
		}
	}
}

// TestStatsLeaveNothing: measuring costs no descriptor and no thread that stays.
func TestStatsLeaveNothing(t *testing.T) {
	i := harness.New(t)
	count := func(what string) int {
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/%s/*", i.PID(), what))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	measure := func() {
		pod := i.RunPod()
		c := pod.Run("c", i.Image(probe), sleeper)
		for range 20 {
			stats(t, c)
			podStats(t, pod)
		}
		pod.Remove()
		if _, err := i.Runtime.PodSandboxStats(i.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod.ID}); !isNotFound(err) {
			t.Error(err)
		}
	}
	measure() // what is made once
	i.Settle()
	files, threads := count("fd"), count("task")
	const times = 5
	for range times {
		measure()
	}
	// The last link that is made ahead may have got its socket only now; what stays
	// would be there once for each time.
	i.Wait("all descriptors to be closed", func() bool { return count("fd") < files+times })
	if now := count("task"); now > threads+8 {
		t.Errorf("%d threads, %d before", now, threads)
	}
}
