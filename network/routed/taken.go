package routed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// Who else may have a host port: a process of the host, which would never see a
// packet again, and another instance, whose rule and ours would both match.

// A heldPort is a host port that a socket of the host has.
type heldPort struct {
	port  network.PortMapping
	inode uint32
}

// Error implements error.
func (h heldPort) Error() string { return portName(h.port) + " is taken" }

// withOwner names a held port's owner. It reads all of /proc: not for the queue.
func withOwner(err error) error {
	var h heldPort
	if errors.As(err, &h) {
		return takenError(h.port, ownerOf(h.inode))
	}
	return err
}

// checkHost refuses ports on which a socket of the calling thread's namespace
// receives. Binding is the quick question. Where it is refused the kernel's list of
// sockets decides: a connection that happens to have this local port is no reason.
func checkHost(ports []network.PortMapping) error {
	for _, p := range ports {
		for _, v4 := range []bool{true, false} {
			if p.HostIP.IsValid() && p.HostIP.Is4() != v4 || free(p, v4) {
				continue
			}
			inode, taken, err := receiver(p, v4)
			if err != nil {
				return fmt.Errorf("cannot see who has %s: %w", portName(p), err)
			}
			if taken {
				return heldPort{p, inode}
			}
		}
	}
	return nil
}

// free says whether the port can be bound. What the kernel does not have, SCTP or
// IPv6, nobody uses.
func free(p network.PortMapping, v4 bool) bool {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if v4 {
		family = unix.AF_INET
	}
	if p.Protocol == network.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(p.Protocol))
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM { // connections that have ended do not count
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if v4 {
		addr := unix.SockaddrInet4{Port: int(p.HostPort)}
		if p.HostIP.IsValid() {
			addr.Addr = p.HostIP.As4()
		}
		err = unix.Bind(fd, &addr)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		addr := unix.SockaddrInet6{Port: int(p.HostPort)}
		if p.HostIP.IsValid() {
			addr.Addr = p.HostIP.As16()
		}
		err = unix.Bind(fd, &addr)
	}
	return !errors.Is(err, unix.EADDRINUSE)
}

// inetDiagRequest is struct inet_diag_req_v2 (linux/inet_diag.h).
type inetDiagRequest struct {
	family, protocol, ext byte
	states                uint32
	port                  uint16
}

// Len implements nl.NetlinkRequestData.
func (inetDiagRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r inetDiagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1], b[2] = r.family, r.protocol, r.ext
	binary.NativeEndian.PutUint32(b[4:], r.states)
	binary.BigEndian.PutUint16(b[8:], r.port)
	return b
}

// receiver finds a socket that listens (TCP, SCTP) or takes anybody's datagrams
// (UDP) on the port, and returns its inode.
func receiver(p network.PortMapping, v4 bool) (inode uint32, taken bool, err error) {
	const closed, listening = 7, 10 // enum in net/tcp_states.h; an unconnected UDP socket is "closed"
	want := inetDiagRequest{protocol: byte(p.Protocol), states: 1 << listening, port: p.HostPort}
	if p.Protocol == network.UDP {
		want.states = 1 << closed
	}
	families := []byte{unix.AF_INET6} // one on [::] may have IPv4 too
	if v4 {
		families = []byte{unix.AF_INET, unix.AF_INET6}
	}
	for _, want.family = range families {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(want)
		answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return 0, false, err
		}
		for _, msg := range answers {
			if len(msg) >= 72 && receives(msg, p) {
				return binary.NativeEndian.Uint32(msg[68:]), true, nil
			}
		}
	}
	return 0, false, nil
}

// receives says whether the socket in a struct inet_diag_msg has the port on an
// address that the mapping has too.
func receives(msg []byte, p network.PortMapping) bool {
	if binary.BigEndian.Uint16(msg[4:]) != p.HostPort {
		return false
	}
	addr := netip.AddrFrom16([16]byte(msg[8:24])).Unmap()
	if msg[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(msg[8:12]))
	}
	return addr.IsUnspecified() || !p.HostIP.IsValid() || p.HostIP == addr
}

// ownerOf names the process that has a socket, for an error.
func ownerOf(inode uint32) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	procs, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range procs {
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err != nil || target != want {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return fmt.Sprintf("process %d (%s) of the host", pid, strings.TrimSpace(string(comm)))
		}
	}
	return "a process of the host"
}

// checkOthers refuses ports that another instance on this host has published.
func (r *ruleset) checkOthers(conn *nftables.Conn, ports []network.PortMapping) error {
	tables, err := conn.ListTablesOfFamily(r.table.Family)
	if err != nil {
		return fmt.Errorf("cannot list nftables tables: %w", err)
	}
	for _, table := range tables {
		if table.Name == r.table.Name || !strings.HasPrefix(table.Name, "cri-box") {
			continue
		}
		for _, set := range r.sets {
			if !set.IsMap {
				continue
			}
			theirs := *set
			theirs.Table = table
			have, err := conn.GetSetElements(&theirs)
			if errors.Is(err, unix.ENOENT) {
				continue // not an instance's table, or one that is going
			}
			if err != nil {
				return fmt.Errorf("cannot list nftables set %s: %w", set.Name, err)
			}
			if err := meetElements(table.Name, have, ports); err != nil {
				return err
			}
		}
	}
	return nil
}

// meetElements compares ports with another instance's elements, whose key is an
// address, if any, then protocol and port in four bytes each.
func meetElements(instance string, have []nftables.SetElement, ports []network.PortMapping) error {
	for _, e := range have {
		if len(e.Key) < 8 {
			continue
		}
		ip, rest := e.Key[:len(e.Key)-8], e.Key[len(e.Key)-8:]
		for _, p := range ports {
			if rest[0] != byte(p.Protocol) || binary.BigEndian.Uint16(rest[4:]) != p.HostPort {
				continue
			}
			if len(ip) == 0 || !p.HostIP.IsValid() || bytes.Equal(ip, p.HostIP.AsSlice()) {
				return takenError(p, fmt.Sprintf("pod %s of instance %s", short(e.Comment), instance))
			}
		}
	}
	return nil
}
