package routed

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// defaultMTU is Ethernet's, for a host that has no way out yet.
const defaultMTU = 1500

// forward makes the host forward packets of these families, and tells what it had
// to change; twice is a no-op.
func forward(pools []pool) error {
	for _, p := range pools {
		if p.prefix.Addr().Is4() {
			if err := tellSysctl("net/ipv4/ip_forward", "1"); err != nil {
				return err
			}
			continue
		}
		if err := forward6(); err != nil {
			return err
		}
	}
	return nil
}

// forward6 keeps the host's own IPv6: the moment it forwards, the kernel drops
// default routes learned from router advertisements and ignores further ones,
// unless the interface says 2 (Documentation/networking/ip-sysctl, accept_ra).
func forward6() error {
	const forwarding = "net/ipv6/conf/all/forwarding"
	if getSysctl(forwarding) == "1" {
		return nil
	}
	paths, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range paths {
		key := strings.TrimPrefix(path, "/proc/sys/")
		if iface := filepath.Base(filepath.Dir(path)); iface == "all" || iface == "default" || getSysctl(key) != "1" {
			continue
		}
		if err := tellSysctl(key, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return tellSysctl(forwarding, "1")
}

// hasIPv6 says whether this host speaks IPv6 at all: a kernel may lack it
// (ipv6.disable=1) and an administrator may have turned it off.
func hasIPv6() bool {
	return getSysctl("net/ipv6/conf/all/disable_ipv6") == "0"
}

// getSysctl and setSysctl go to the calling thread's network namespace.
func getSysctl(key string) string {
	value, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// tellSysctl is for what is the whole node's.
func tellSysctl(key, value string) error {
	before := getSysctl(key)
	if before == value {
		return nil
	}
	err := setSysctl(key, value)
	if err == nil {
		slog.Info("the pod network needs a sysctl of the node", "key", strings.ReplaceAll(key, "/", "."), "was", before, "is", value)
	}
	return err
}

func setSysctl(key, value string) error {
	if getSysctl(key) == value {
		return nil
	}
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("cannot set sysctl %s to %s: %w", key, value, err)
	}
	return nil
}

// uplinkMTU is the MTU of the interface by which the host reaches the world. The
// addresses are documentation's (RFC 5737, RFC 3849): only a default route leads
// to them. Nothing is sent.
func uplinkMTU(handle *netlink.Handle) int {
	for _, far := range []string{"198.51.100.1", "2001:db8:ffff::1"} {
		routes, err := handle.RouteGet(net.ParseIP(far))
		if err != nil || len(routes) == 0 {
			continue
		}
		link, err := handle.LinkByIndex(routes[0].LinkIndex)
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
			return link.Attrs().MTU
		}
	}
	return defaultMTU
}
