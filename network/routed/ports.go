package routed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// checkPorts returns the ports to publish, each once, with plain host addresses.
func checkPorts(ports []network.PortMapping) ([]network.PortMapping, error) {
	var out []network.PortMapping
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		switch p.Protocol {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return nil, fmt.Errorf("cannot publish host port %d: IP protocol %d is none of TCP, UDP and SCTP", p.HostPort, p.Protocol)
		}
		if p.ContainerPort == 0 {
			return nil, fmt.Errorf("cannot publish %s: it names no container port", portName(p))
		}
		if p.HostIP = p.HostIP.Unmap(); p.HostIP.IsValid() && p.HostIP.IsUnspecified() {
			p.HostIP = netip.Addr{}
		}
		if slices.Contains(out, p) {
			continue
		}
		for _, other := range out {
			if meet(p, other) {
				return nil, fmt.Errorf("cannot publish %s: the pod itself maps it twice, to its ports %d and %d",
					portName(p), other.ContainerPort, p.ContainerPort)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// meet says whether some packet would belong to both mappings.
func meet(a, b network.PortMapping) bool {
	return a.Protocol == b.Protocol && a.HostPort == b.HostPort &&
		(a.HostIP == b.HostIP || !a.HostIP.IsValid() || !b.HostIP.IsValid())
}

// onLoopback says whether the port is there on 127.0.0.1.
func onLoopback(p network.PortMapping) bool {
	return !p.HostIP.IsValid() || loopback4.Contains(p.HostIP)
}

func portName(p network.PortMapping) string {
	if p.HostIP.IsValid() {
		return fmt.Sprintf("host port %s %s", p.Protocol, netip.AddrPortFrom(p.HostIP, p.HostPort))
	}
	return fmt.Sprintf("host port %s %d", p.Protocol, p.HostPort)
}

// elementsOf returns the set elements of a lease, by set: a pure function. The
// comment is the pod's id, by which they are found again.
func elementsOf(l lease) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	if len(l.Ports) == 0 {
		return out
	}
	for _, ip := range l.IPs {
		byIP, byPort, self := setIP6, setPort6, setSelf6
		if ip.Is4() {
			byIP, byPort, self = setIP4, setPort4, setSelf4
		}
		raw := ip.AsSlice()
		out[self] = append(out[self], nftables.SetElement{Key: slices.Concat(raw, raw), Comment: l.Pod})
		for _, p := range l.Ports {
			set, key := byPort, slices.Concat(word(uint16(p.Protocol)<<8), word(p.HostPort))
			if p.HostIP.IsValid() {
				if p.HostIP.Is4() != ip.Is4() {
					continue
				}
				set, key = byIP, slices.Concat(p.HostIP.AsSlice(), key)
			}
			value := slices.Concat(raw, word(p.ContainerPort))
			out[set] = append(out[set], nftables.SetElement{Key: key, Val: value, Comment: l.Pod})
		}
	}
	return out
}

// word is a port in a register of four bytes, the rest of which is zero.
func word(v uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, v), 0, 0)
}

// allElements joins the elements of all leases.
func allElements(all []lease) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	for _, l := range all {
		for set, elements := range elementsOf(l) {
			out[set] = append(out[set], elements...)
		}
	}
	return out
}

// applyElements adds what is missing and deletes what nobody owns any more, in
// one transaction.
func (r *ruleset) applyElements(conn *nftables.Conn, want map[string][]nftables.SetElement) error {
	for _, set := range r.sets {
		have, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("cannot list nftables set %s: %w", set.Name, err)
		}
		if err := change(conn, set, without(have, want[set.Name]), without(want[set.Name], have)); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot apply published ports: %w", err)
	}
	return nil
}

// elementsAtOnce is how many go into one message: its list of them is one attribute,
// of at most 64 KiB, and one takes 140 bytes. The library does not look.
const elementsAtOnce = 256

// change queues the deletion and addition of elements.
func change(conn *nftables.Conn, set *nftables.Set, surplus, missing []nftables.SetElement) error {
	for some := range slices.Chunk(surplus, elementsAtOnce) {
		if err := conn.SetDeleteElements(set, some); err != nil {
			return fmt.Errorf("cannot delete elements of nftables set %s: %w", set.Name, err)
		}
	}
	for some := range slices.Chunk(missing, elementsAtOnce) {
		if err := conn.SetAddElements(set, some); err != nil {
			return fmt.Errorf("cannot add elements to nftables set %s: %w", set.Name, err)
		}
	}
	return nil
}

// without returns the elements of one list that are not in the other.
func without(list, other []nftables.SetElement) []nftables.SetElement {
	// In a set all keys have one length, and all values.
	whole := func(e nftables.SetElement) string { return string(e.Key) + string(e.Val) + e.Comment }
	known := make(map[string]bool, len(other))
	for _, e := range other {
		known[whole(e)] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(e nftables.SetElement) bool { return known[whole(e)] })
}

// publish adds a lease's elements. One that is there already with the same value
// is no error; with another value the kernel answers EEXIST, and the owner is
// found by the element's comment.
func (r *ruleset) publish(conn *nftables.Conn, l lease) error {
	want := elementsOf(l)
	for _, set := range r.sets {
		if err := change(conn, set, nil, want[set.Name]); err != nil {
			return err
		}
	}
	err := conn.Flush()
	if errors.Is(err, unix.EEXIST) {
		return r.ownerError(conn, l, want)
	}
	if err != nil {
		return fmt.Errorf("cannot publish ports of %s: %w", l, err)
	}
	return nil
}

func (r *ruleset) ownerError(conn *nftables.Conn, l lease, want map[string][]nftables.SetElement) error {
	for _, set := range r.sets {
		have, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("cannot list nftables set %s: %w", set.Name, err)
		}
		for _, e := range have {
			for _, w := range want[set.Name] {
				if bytes.Equal(e.Key, w.Key) && !bytes.Equal(e.Val, w.Val) {
					port := binary.BigEndian.Uint16(e.Key[len(e.Key)-4:])
					return fmt.Errorf("cannot publish host port %d: pod %s has it: %w", port, short(e.Comment), network.ErrPortTaken)
				}
			}
		}
	}
	return fmt.Errorf("cannot publish ports of %s: %w", l, network.ErrPortTaken)
}

// unpublish takes a pod's ports back. It deletes what the lease says, in one
// transaction; if the kernel knows better, or without ports in the lease, whatever
// carries the pod's id as comment. A port that another pod got is safe: a pod that
// never published has no element in self either, and the transaction fails whole.
func (r *ruleset) unpublish(conn *nftables.Conn, l lease) error {
	if len(l.Ports) == 0 {
		return r.unpublishListed(conn, l.Pod)
	}
	mine := elementsOf(l)
	for _, set := range r.sets {
		if err := change(conn, set, mine[set.Name], nil); err != nil {
			return err
		}
	}
	err := conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		return r.unpublishListed(conn, l.Pod)
	}
	if err != nil {
		return fmt.Errorf("cannot take back ports of %s: %w", l, err)
	}
	return nil
}

func (r *ruleset) unpublishListed(conn *nftables.Conn, id string) error {
	if exists, err := r.exists(conn); !exists || err != nil {
		return err
	}
	for _, set := range r.sets {
		have, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("cannot list nftables set %s: %w", set.Name, err)
		}
		mine := slices.DeleteFunc(have, func(e nftables.SetElement) bool { return e.Comment != id })
		if err := change(conn, set, mine, nil); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot take back ports of pod %s: %w", short(id), err)
	}
	return nil
}
