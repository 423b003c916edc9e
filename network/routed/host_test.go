package routed

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

func TestRouteLocalnetWhereItIsNeeded(t *testing.T) {
	l := newLab(t)
	for _, tc := range []struct {
		port, want string
	}{{"", "0"}, {"8080:80/tcp", "1"}, {node4 + ":8081:80/tcp", "0"}, {"127.0.0.1:8082:80/tcp", "1"}, {"[" + node6 + "]:8083:80/tcp", "0"}} {
		p := l.prepare()
		if tc.port != "" {
			p.Ports = append(p.Ports, mapping(t, tc.port))
		}
		l.attach(p)
		l.in(l.node, func() error {
			if got := getSysctl("net/ipv4/conf/" + p.HostLink + "/route_localnet"); got != tc.want {
				t.Errorf("a pod with port %q has route_localnet %s, want %s", tc.port, got, tc.want)
			}
			return nil
		})
	}
	l.in(l.node, func() error {
		if got := getSysctl("net/ipv4/conf/all/route_localnet"); got != "0" {
			t.Errorf("all interfaces have route_localnet %s", got)
		}
		return nil
	})
}

// What is the node's own is changed only where it has to be, and told.
func TestSysctlsOfTheNode(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	for name, tc := range map[string]struct {
		options []func(*Config)
		want    []string
	}{
		"dual stack": {nil, []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.lo.accept_ra", "net.ipv6.conf.up0.accept_ra"}},
		"IPv4 alone": {[]func(*Config){ipv4Alone}, []string{"net.ipv4.ip_forward"}},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			l := &lab{t: t, cfg: Config{Instance: "cri-box", StateDir: t.TempDir()}}
			for _, set := range tc.options {
				set(&l.cfg)
			}
			l.node, l.outside = l.namespace(), l.namespace()
			l.in(l.node, func() error { return l.uplink() })
			// A new namespace takes this from the machine's, as that is.
			l.in(l.node, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
			before := l.sysctls()
			l.open()
			told := log.String()
			l.attach(l.prepare("8080:80/tcp"))
			var changed []string
			for key, value := range l.sysctls() {
				if was, known := before[key]; known && was != value && !implied(key) {
					changed = append(changed, key)
					if line := fmt.Sprintf("key=%s was=%s is=%s", key, was, value); !strings.Contains(told, line) {
						t.Errorf("the log does not say %q:\n%s", line, told)
					}
				}
			}
			if slices.Sort(changed); !slices.Equal(changed, tc.want) {
				t.Errorf("changed %q, want %q", changed, tc.want)
			}
			log.Reset()
			if err := l.net.Ready(); err != nil || strings.Contains(log.String(), "sysctl") {
				t.Errorf("%v; again it told %s", err, log.String())
			}
		})
	}
}

// implied is what the kernel changes along with ip_forward and all.forwarding.
func implied(key string) bool {
	return strings.HasPrefix(key, "net.ipv4.conf.") || strings.HasSuffix(key, ".forwarding") && key != "net.ipv6.conf.all.forwarding"
}

// sysctls are the node's switches of both families.
func (l *lab) sysctls() map[string]string {
	l.t.Helper()
	all := map[string]string{}
	l.in(l.node, func() error {
		for _, dir := range []string{"ipv4", "ipv6", "netfilter"} {
			err := filepath.WalkDir("/proc/sys/net/"+dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || strings.HasPrefix(filepath.Base(path), "nf_conntrack_count") {
					return nil // an interface may go meanwhile
				}
				data, _ := os.ReadFile(path) // some can only be written
				all[strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")] = strings.TrimSpace(string(data))
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return all
}

// Rules of others: kube-proxy's and an administrator's, of iptables and of nft. They
// are the same to the letter through everything that happens to our table.
func TestOthersRulesAreLeftAlone(t *testing.T) {
	l := newLab(t)
	const firewall = "table inet firewall {\n\tset banned { type ipv4_addr; elements = { 198.51.100.66 }; }\n" +
		"\tchain input { type filter hook input priority 0; policy accept; ip saddr @banned drop; }\n}\n"
	for _, load := range []struct {
		text    string
		program []string
	}{{fill(iptablesRules, "tcp", "10.88.0.1", "10.88.0.2"), []string{"iptables-restore", "-w", "5"}}, {firewall, []string{"nft", "-f", "-"}}} {
		l.in(l.node, func() error {
			cmd := exec.Command(load.program[0], load.program[1:]...)
			cmd.Stdin = strings.NewReader(load.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	others := func() string { return strings.Replace(l.ruleset(), l.ownTable(), "", 1) }
	want := others()
	if !strings.Contains(want, "KUBE-SEP-A") || !strings.Contains(want, "banned") {
		t.Fatalf("there are no others:\n%s", want)
	}
	same := func(when string) {
		t.Helper()
		if got := others(); got != want {
			t.Errorf("%s the others' rules are\n%s\nwere\n%s", when, got, want)
		}
	}
	p := l.pod("8080:80/tcp", "8080:80/udp")
	same("with a pod")
	l.in(l.node, func() error { return l.edit(func(c *nftables.Conn) { c.DelTable(l.net.rules.table) }) })
	if err := l.net.Ready(); err != nil || l.ownTable() == "" {
		t.Fatal("not mended:", err)
	}
	same("after mending")
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Fatal(err)
	}
	same("without the pod")
	if err := l.net.Close(); err != nil || l.ownTable() != "" {
		t.Fatal("the table is left:", err)
	}
	same("after the end")
}

// A node whose new interfaces have no IPv6 gives pods IPv4 alone.
func TestNewInterfacesWithoutIPv6(t *testing.T) {
	l := &lab{t: t, cfg: Config{Instance: "cri-box", StateDir: t.TempDir()}}
	l.node, l.outside = l.namespace(), l.namespace()
	l.in(l.node, func() error { return l.uplink() })
	l.in(l.node, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0) })
	l.open()
	p := l.pod()
	if len(p.IPs) != 1 || !p.IPs[0].Is4() {
		t.Errorf("the pod has %v", p.IPs)
	}
}

// The interfaces of pods accept no router advertisements because somebody stopped
// the forwarding for a while.
func TestForwardingAgainWithPods(t *testing.T) {
	l := newLab(t)
	p := l.pod()
	l.in(l.node, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0) })
	if err := l.net.Ready(); err != nil {
		t.Fatal(err)
	}
	l.in(l.node, func() error {
		if got := getSysctl("net/ipv6/conf/" + p.HostLink + "/accept_ra"); got == "2" || getSysctl("net/ipv6/conf/up0/accept_ra") != "2" {
			t.Errorf("accept_ra of the pod's interface is %s, of the uplink %s", got, getSysctl("net/ipv6/conf/up0/accept_ra"))
		}
		return nil
	})
}

// An uplink too narrow for IPv6, a tunnel say, keeps no pod from starting.
func TestNarrowUplink(t *testing.T) {
	for want, options := range map[int][]func(*Config){minMTU6: nil, 1200: {ipv4Alone}} {
		l := newLab(t, options...)
		l.in(l.node, func() error {
			link, err := netlink.LinkByName("up0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 1200)
		})
		if err := l.net.Ready(); err != nil {
			t.Fatal(err)
		}
		p, other := l.pod(), l.pod()
		l.serve(p.NetNS, "pod", ":80")
		l.serve(l.outside, "world", ":82")
		for i, ip := range p.IPs {
			l.expectTCP(other.NetNS, ip.String(), "80", "pod "+other.IPs[i].String())
		}
		l.expectTCP(p.NetNS, out4, "82", "world "+node4)
		if p.MTU != want {
			t.Errorf("MTU %d, want %d", p.MTU, want)
		}
	}
}
