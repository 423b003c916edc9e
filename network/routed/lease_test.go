package routed

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-box/cri-box/network"
)

func testLeases(t *testing.T, dir string, prefixes ...string) *leases {
	t.Helper()
	var pools []pool
	for _, s := range prefixes {
		p, err := newPool(netip.MustParsePrefix(s))
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, p)
	}
	l, err := openLeases(dir, pools)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func claim(t *testing.T, l *leases, id string) string {
	t.Helper()
	one, err := l.claim(network.Pod{ID: id}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return one.IPs[0].String()
}

func TestAddressesRotate(t *testing.T) {
	dir := t.TempDir()
	l := testLeases(t, dir, "10.0.0.0/29", "fd00::/64") // .1 to .6
	for id, want := range map[string]string{"aaaaaaaa": "10.0.0.1"} {
		if got := claim(t, l, id); got != want || claim(t, l, id) != want {
			t.Errorf("%s has %s, want %s", id, got, want)
		}
	}
	if err := l.drop("aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	if got := claim(t, l, "bbbbbbbb"); got != "10.0.0.2" {
		t.Errorf("after a drop %s, want the next", got)
	}
	l = testLeases(t, dir, "10.0.0.0/29", "fd00::/64") // a restart
	for i, id := range []string{"cccccccc", "dddddddd", "eeeeeeee", "ffffffff"} {
		if got, want := claim(t, l, id), netip.AddrFrom4([4]byte{10, 0, 0, byte(3 + i)}).String(); got != want {
			t.Errorf("%s has %s, want %s", id, got, want)
		}
	}
	if got := claim(t, l, "bbbbbbbb"); got != "10.0.0.2" {
		t.Errorf("after a restart the pod has %s", got)
	}
	if got := claim(t, l, "11111111"); got != "10.0.0.1" {
		t.Errorf("%s, want the round to begin anew", got)
	}
	if _, err := l.claim(network.Pod{ID: "22222222"}, nil); !errors.Is(err, network.ErrNoAddress) {
		t.Errorf("a full range: %v", err)
	}
}

// Whoever changes its ports gives the old ones back, in memory as on disk.
func TestPortsChange(t *testing.T) {
	dir := t.TempDir()
	l := testLeases(t, dir, "10.0.0.0/24")
	port := func(n uint16) []network.PortMapping {
		return []network.PortMapping{{Protocol: network.TCP, ContainerPort: 80, HostPort: n}}
	}
	try := func(id string, n uint16, refused bool) {
		t.Helper()
		if _, err := l.claim(network.Pod{ID: id}, port(n)); errors.Is(err, network.ErrPortTaken) != refused {
			t.Errorf("%s asks for %d: %v", id, n, err)
		}
	}
	try("aaaaaaaa", 80, false)
	try("bbbbbbbb", 80, true)
	try("aaaaaaaa", 81, false)
	try("bbbbbbbb", 80, false)
	l = testLeases(t, dir, "10.0.0.0/24") // a restart
	try("cccccccc", 80, true)
	try("cccccccc", 81, true)
	if err := l.drop("aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	try("cccccccc", 81, false)
}

func TestPoolEnds(t *testing.T) {
	for prefix, want := range map[string][2]string{
		"10.88.0.0/16": {"10.88.0.1", "10.88.255.254"},
		"10.0.0.4/30":  {"10.0.0.5", "10.0.0.6"},
		"fd00::/64":    {"fd00::1", "fd00::ffff:ffff"},
		"fd00::fc/126": {"fd00::fd", "fd00::ff"},
	} {
		p, err := newPool(netip.MustParsePrefix(prefix))
		if err != nil {
			t.Fatal(err)
		}
		if first, last := p.at(0).String(), p.at(p.size-1).String(); first != want[0] || last != want[1] {
			t.Errorf("%s: %s to %s, want %v", prefix, first, last, want)
		}
	}
}

func TestBadLeaseIsSetAside(t *testing.T) {
	dir := t.TempDir()
	l := testLeases(t, dir, "10.0.0.0/24")
	good := claim(t, l, "aaaaaaaa")
	claim(t, l, "bbbbbbbb")
	for name, data := range map[string]string{"bbbbbbbb": `{"version":1,"pod":"bbb`, "cccccccc": "", "dddddddd.tmp": "half",
		"eeeeeeee": `{"version":1,"pod":"aaaaaaaa","ips":["10.0.0.9"]}`, "ffffffff": `{"version":9,"pod":"ffffffff","ips":["10.0.0.9"]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l = testLeases(t, dir, "10.0.0.0/24")
	if all := l.all(); len(all) != 1 || claim(t, l, "aaaaaaaa") != good {
		t.Errorf("leases %v", all)
	}
	bad, err := filepath.Glob(filepath.Join(dir, "*.bad"))
	if err != nil || len(bad) != 4 {
		t.Errorf("set aside: %v", bad)
	}
	if tmp, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(tmp) > 0 {
		t.Errorf("left: %v", tmp)
	}
	if err := l.drop("bbbbbbbb"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bbbbbbbb.bad")); !os.IsNotExist(err) {
		t.Error("a dropped pod's bad lease is still there")
	}
}

func TestPortsRefused(t *testing.T) {
	for name, ports := range map[string][]network.PortMapping{
		"protocol":       {{Protocol: 1, ContainerPort: 1, HostPort: 1}},
		"container port": {{Protocol: network.TCP, HostPort: 1}},
		"twice":          {{Protocol: network.TCP, ContainerPort: 1, HostPort: 1}, {Protocol: network.TCP, ContainerPort: 2, HostPort: 1}},
		"twice by address": {{Protocol: network.TCP, ContainerPort: 1, HostPort: 1, HostIP: netip.MustParseAddr("10.0.0.1")},
			{Protocol: network.TCP, ContainerPort: 1, HostPort: 1}},
	} {
		if got, err := checkPorts(ports); err == nil {
			t.Errorf("%s: accepted as %v", name, got)
		}
	}
	got, err := checkPorts([]network.PortMapping{{Protocol: network.TCP, ContainerPort: 80},
		{Protocol: network.TCP, ContainerPort: 80, HostPort: 80, HostIP: netip.MustParseAddr("0.0.0.0")},
		{Protocol: network.TCP, ContainerPort: 80, HostPort: 80, HostIP: netip.MustParseAddr("::")}})
	if err != nil || len(got) != 1 || got[0].HostIP.IsValid() {
		t.Errorf("%v, %v", got, err)
	}
}
