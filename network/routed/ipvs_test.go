package routed

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// What kube-proxy writes in mode ipvs, for the same Service: addresses on a device of
// its own, sets, rules, and virtual servers. The names are kube-proxy's.
const (
	ipvsDevice = `set -e
ip link add kube-ipvs0 type dummy
ip address add 10.96.0.10/32 dev kube-ipvs0
cd /proc/sys/net/ipv4
echo 1 >vs/conntrack
echo 1 >vs/expire_nodest_conn
echo 1 >conf/all/arp_ignore
echo 2 >conf/all/arp_announce
`
	ipvsSets = `create KUBE-CLUSTER-IP hash:ip,port
create KUBE-LOOP-BACK hash:ip,port,ip
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
create KUBE-NODE-PORT-UDP bitmap:port range 0-65535
add KUBE-CLUSTER-IP 10.96.0.10,PROTO:80
add KUBE-LOOP-BACK POD_A,PROTO:8000,POD_A
add KUBE-LOOP-BACK POD_B,PROTO:8000,POD_B
add KUBE-NODE-PORT-TCP 30080
add KUBE-NODE-PORT-UDP 30080
`
	ipvsRules = `*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES ! -s 10.88.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
COMMIT
`
	ipvsServers = `-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r POD_A:8000 -m -w 1
-a -t 10.96.0.10:80 -r POD_B:8000 -m -w 1
-A -t 192.0.2.2:30080 -s rr
-a -t 192.0.2.2:30080 -r POD_A:8000 -m -w 1
-a -t 192.0.2.2:30080 -r POD_B:8000 -m -w 1
-A -u 10.96.0.10:80 -s rr
-a -u 10.96.0.10:80 -r POD_A:8000 -m -w 1
-a -u 10.96.0.10:80 -r POD_B:8000 -m -w 1
-A -u 192.0.2.2:30080 -s rr
-a -u 192.0.2.2:30080 -r POD_A:8000 -m -w 1
-a -u 192.0.2.2:30080 -r POD_B:8000 -m -w 1
`
)

// Not every kernel has IPVS: Debian's, in which hack/vm/test.sh runs this, does.
func TestServicesByIPVS(t *testing.T) {
	_ = exec.Command("modprobe", "-q", "ip_vs").Run()
	if _, err := os.Stat("/proc/sys/net/ipv4/vs"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("this kernel has no IPVS")
	}
	ipvs := proxy{{[]string{"sh", "-c", ipvsDevice}, ""}, {[]string{"ipset", "restore"}, ipvsSets},
		{[]string{"iptables-restore", "-w", "5"}, ipvsRules}, {[]string{"ipvsadm", "-R"}, ipvsServers}}
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto, func(t *testing.T) { service(t, ipvs, proto) })
	}
}
