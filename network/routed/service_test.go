package routed

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// kube-proxy's rules as it writes them, for one Service with two endpoints on this
// node, one of which asks itself too. The names are hashes of namespace, name and
// port in kube-proxy; any will do here.
const iptablesRules = `*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-WEB - [0:0]
:KUBE-EXT-WEB - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p PROTO -m comment --comment "default/web cluster IP" -m PROTO --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -d 192.0.2.2/32 -p PROTO -m comment --comment default/web -m PROTO --dport 30080 -j KUBE-EXT-WEB
-A KUBE-EXT-WEB -m comment --comment "masquerade traffic for default/web external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -j KUBE-SVC-WEB
-A KUBE-SVC-WEB -m comment --comment "default/web -> A" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-WEB -m comment --comment "default/web -> B" -j KUBE-SEP-B
-A KUBE-SEP-A -s POD_A/32 -m comment --comment default/web -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p PROTO -m comment --comment default/web -m PROTO -j DNAT --to-destination POD_A:8000
-A KUBE-SEP-B -s POD_B/32 -m comment --comment default/web -j KUBE-MARK-MASQ
-A KUBE-SEP-B -p PROTO -m comment --comment default/web -m PROTO -j DNAT --to-destination POD_B:8000
COMMIT
`

const nftRules = `table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . PROTO . 80 : goto service-web }
	}
	map service-nodeports {
		type inet_proto . inet_service : verdict
		elements = { PROTO . 30080 : goto external-web }
	}
	set nodeport-ips { type ipv4_addr; elements = { 192.0.2.2 } }
	chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
	chain masquerading {
		meta mark & 0x4000 == 0 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
	chain external-web { jump mark-for-masquerade; goto service-web; }
	chain service-web { numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-b }; }
	chain endpoint-a { ip saddr POD_A jump mark-for-masquerade; meta l4proto PROTO dnat to POD_A:8000; }
	chain endpoint-b { ip saddr POD_B jump mark-for-masquerade; meta l4proto PROTO dnat to POD_B:8000; }
}
`

// A proxy is kube-proxy in one of its modes: the programs that it runs, each with
// what it writes to it.
type proxy []struct {
	program []string
	rules   string
}

func (p proxy) load(l *lab, proto, a, b string) {
	l.t.Helper()
	for _, step := range p {
		l.in(l.node, func() error {
			cmd := exec.Command(step.program[0], step.program[1:]...)
			cmd.Stdin = strings.NewReader(fill(step.rules, proto, a, b))
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", step.program[0], err, out)
			}
			return nil
		})
	}
}

func TestServicesOfKubeProxy(t *testing.T) {
	for name, p := range map[string]proxy{
		"iptables": {{[]string{"iptables-restore", "-w", "5"}, iptablesRules}},
		"nftables": {{[]string{"nft", "-f", "-"}, nftRules}},
	} {
		for _, proto := range []string{"tcp", "udp"} {
			t.Run(name+" "+proto, func(t *testing.T) { service(t, p, proto) })
		}
	}
}

func fill(rules, proto, a, b string) string {
	return strings.NewReplacer("PROTO", proto, "POD_A", a, "POD_B", b).Replace(rules)
}

func service(t *testing.T, kubeProxy proxy, proto string) {
	l := newLab(t)
	a, b, client := l.pod("9090:8000/tcp", "9090:8000/udp"), l.pod(), l.pod()
	l.serve(a.NetNS, "a", ":8000")
	l.serve(b.NetNS, "b", ":8000")
	kubeProxy.load(l, proto, a.v4, b.v4)
	// ask until both endpoints have answered; who is behind the service is a coin's choice.
	both := func(what string, ns int, host, port string, source func(endpoint string) string) {
		t.Helper()
		seen := map[string]bool{}
		for range 60 {
			got, err := l.ask(ns, proto, host, port)
			name, _, _ := strings.Cut(got, " ")
			if err != nil || got != name+" "+source(name) {
				t.Errorf("%s: %q, %v; want source %s", what, got, err, source(name))
				return
			}
			if seen[name] = true; seen["a"] && seen["b"] {
				return
			}
		}
		t.Errorf("%s: only %v answered 60 times", what, seen)
	}
	always := func(ip string) func(string) string { return func(string) string { return ip } }
	check := func() {
		t.Helper()
		both("another pod", client.NetNS, "10.96.0.10", "80", always(client.v4)) // the client's own address is kept
		both("node", l.node, "10.96.0.10", "80", always(node4))
		both("a pod behind the service", a.NetNS, "10.96.0.10", "80", func(endpoint string) string {
			if endpoint == "a" {
				return node4 // itself: masqueraded, or the answer would not come back by here
			}
			return a.v4
		})
		// Masqueraded by the node: its address on the way to the pod.
		both("outside, node port", l.outside, node4, "30080", always(node4))
		if got, err := l.ask(l.outside, proto, node4, "9090"); err != nil || got != "a "+out4 {
			t.Errorf("host port beside the service: %q, %v", got, err)
		}
	}
	check()
	if err := l.net.Ready(); err != nil { // sees its own table untouched
		t.Fatal(err)
	}
	if kubeProxy[0].program[0] == "nft" {
		l.in(l.node, func() error { return exec.Command("nft", "flush", "ruleset").Run() })
		kubeProxy.load(l, proto, a.v4, b.v4) // as kube-proxy does
		if err := l.net.Ready(); err != nil {
			t.Fatal(err)
		}
		check()
	}
}
