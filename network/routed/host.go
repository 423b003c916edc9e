package routed

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultMTU is Ethernet's, for a host that has no way out yet.
const defaultMTU = 1500

// minMTU6 is the least that a link with IPv6 has (RFC 8200, 5).
const minMTU6 = 1280

// A forwarding is whether the host forwards packets: the kernel's files for it, which
// stay open to be read again. They are those of the thread's namespace.
type forwarding struct{ files []*sysctl }

type sysctl struct {
	fd int
	on func() error
}

// ensure makes the host forward packets of these families, and tells what it had to
// change; twice is a no-op. The pods' interfaces are those whose names begin with pods.
func (f *forwarding) ensure(pools []pool, pods string) error {
	if f.files == nil {
		if err := f.open(pools, pods); err != nil {
			f.close()
			return err
		}
	}
	for _, s := range f.files {
		var value [1]byte
		if n, err := unix.Pread(s.fd, value[:], 0); err == nil && n == 1 && value[0] == '1' {
			continue
		}
		if err := s.on(); err != nil {
			return err
		}
	}
	return nil
}

func (f *forwarding) open(pools []pool, pods string) error {
	for _, p := range pools {
		key, on := "net/ipv6/conf/all/forwarding", func() error { return forward6(pods) }
		if p.prefix.Addr().Is4() {
			key, on = "net/ipv4/ip_forward", func() error { return tellSysctl("net/ipv4/ip_forward", "1") }
		}
		fd, err := unix.Open("/proc/sys/"+key, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot read sysctl %s: %w", key, err)
		}
		f.files = append(f.files, &sysctl{fd, on})
	}
	return nil
}

func (f *forwarding) close() {
	for _, s := range f.files {
		unix.Close(s.fd)
	}
	f.files = nil
}

// forward6 keeps the host's own IPv6: the moment it forwards, the kernel drops
// default routes learned from router advertisements and ignores further ones,
// unless the interface says 2 (Documentation/networking/ip-sysctl, accept_ra). That
// of a pod never does: a router is not behind it.
func forward6(pods string) error {
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
		if iface := filepath.Base(filepath.Dir(path)); iface == "all" || iface == "default" || strings.HasPrefix(iface, pods) || getSysctl(key) != "1" {
			continue
		}
		if err := tellSysctl(key, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return tellSysctl(forwarding, "1")
}

// hasIPv6 says whether this host speaks IPv6 at all: a kernel may lack it
// (ipv6.disable=1) and an administrator may have turned it off, also just for
// interfaces to come, such as those of pods.
func hasIPv6() bool {
	return getSysctl("net/ipv6/conf/all/disable_ipv6") == "0" && getSysctl("net/ipv6/conf/default/disable_ipv6") == "0"
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
func uplinkMTU(rt *socket) int {
	for _, far := range []string{"198.51.100.1", "2001:db8:ffff::1"} {
		index, err := rt.wayTo(netip.MustParseAddr(far))
		if err != nil {
			continue
		}
		b := &batch{}
		b.add(unix.RTM_GETLINK, 0, linkHead(index, 0), "find interface %d", index)
		link, err := rt.oneLink(b)
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
			return link.Attrs().MTU
		}
	}
	return defaultMTU
}
