package pods_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Two nodes of a cluster with routes to each other's pods: a pod of one sees the pod
// of the other that asks, and what is outside of the cluster sees the node.
func TestPodsOfTwoNodes(t *testing.T) {
	settings := harness.Args("--set", "network.pod_cidr=kubelet", "--set", "network.no_masquerade=['10.77.0.0/16', 'fd77::/16']")
	a, b := harness.New(t, settings), harness.New(t, settings)
	giveRange(t, a, "10.77.1.0/24,fd77:1::/64")
	giveRange(t, b, "10.77.2.0/24,fd77:2::/64")
	connect(t, a, b)
	asker, asked := a.RunPod(), b.RunPod()
	asked.Run("server", b.Image(probe), run("serve-http", "80", "hello")).WaitOutput("ready")
	a.Outside.Serve(t, ":80", http.HandlerFunc(tellFrom))
	for i, address := range addresses(t, asked) {
		a.Wait("a way from node to node", func() bool { // the kernel sets up an IPv6 link in workers of its own
			conn, err := a.Node.Dial(a.Context(), "tcp", join(address, 80))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		equal(t, "who asks a pod of the other node", seenAt(a, asker, address), addresses(t, asker)[i])
	}
	equal(t, "who asks the outside", seenAt(a, asker, harness.OutsideIPv4), harness.NodeIPv4)
	equal(t, "who asks the outside by IPv6", seenAt(a, asker, harness.OutsideIPv6), harness.NodeIPv6)
}

func giveRange(t *testing.T, i *harness.Instance, cidrs string) {
	t.Helper()
	_, err := i.Runtime.UpdateRuntimeConfig(i.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidrs}}})
	if err != nil {
		t.Fatal(err)
	}
}

// seenAt is whom the server at an address sees when a new container of the pod asks.
func seenAt(i *harness.Instance, pod *harness.Pod, address string) string {
	c := pod.Run("to-"+strings.NewReplacer(".", "-", ":", "-").Replace(address), i.Image(probe), run("get", "http://"+join(address, 80)+"/from"))
	c.WaitExit()
	return strings.TrimSpace(c.Output("stdout"))
}

// connect joins two nodes, as a cloud's network or a routing daemon does.
func connect(t *testing.T, a, b *harness.Instance) {
	t.Helper()
	const name = "nodes"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsPid(b.PID())}
	if err := a.Node.Do(func() error { return netlink.LinkAdd(link) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Node.Do(func() error { return netlink.LinkDel(link) }) })
	for _, end := range []struct {
		node           *harness.Net
		own, way, pods [2]string
	}{
		{a.Node, [2]string{"198.51.100.1/24", "2001:db8:1::1/64"}, [2]string{"198.51.100.2", "2001:db8:1::2"}, [2]string{"10.77.2.0/24", "fd77:2::/64"}},
		{b.Node, [2]string{"198.51.100.2/24", "2001:db8:1::2/64"}, [2]string{"198.51.100.1", "2001:db8:1::1"}, [2]string{"10.77.1.0/24", "fd77:1::/64"}},
	} {
		err := end.node.Do(func() error { return routeBy(name, end.own, end.way, end.pods) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// routeBy brings a link up with an address of each family, and a route by way.
func routeBy(name string, own, way, to [2]string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	for i := 0; i < len(own) && err == nil; i++ {
		var address *netlink.Addr
		var pods *net.IPNet
		if address, err = netlink.ParseAddr(own[i]); err != nil {
			break
		}
		address.Flags = unix.IFA_F_NODAD
		if err = netlink.AddrAdd(link, address); err != nil {
			break
		}
		if _, pods, err = net.ParseCIDR(to[i]); err == nil {
			err = netlink.RouteAdd(&netlink.Route{Dst: pods, Gw: net.ParseIP(way[i]), LinkIndex: link.Attrs().Index, Flags: int(netlink.FLAG_ONLINK)})
		}
	}
	return err
}
