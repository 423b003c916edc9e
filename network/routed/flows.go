package routed

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// flows ends UDP flows that outlived their pod or were there before it. Connection
// tracking looks a port's map up only for a flow's first packet: a client that
// never pauses would talk to the pod before for ever.
//
// Finding them means reading the whole connection table, 25 ms here. So it is done
// only for pods with UDP host ports, beside the queue, and one reading serves all
// who asked meanwhile. The goroutine ends when nobody asks; wait waits for it.
type flows struct {
	handle *netlink.Handle

	mu      sync.Mutex
	pending []stale
	running bool
	done    sync.WaitGroup
}

// newFlows opens its sockets in the calling thread's namespace.
func newFlows() (*flows, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open netfilter socket: %w", err)
	}
	if err := handle.SetSocketTimeout(kernelTimeout); err != nil {
		handle.Close()
		return nil, fmt.Errorf("cannot bound netfilter socket: %w", err)
	}
	return &flows{handle: handle}, nil
}

// arrived ends flows to the pod's UDP host ports that do not go to the pod.
func (f *flows) arrived(l lease) { f.ask(stale{lease: l}) }

// left ends flows that still go to the pod.
func (f *flows) left(l lease) { f.ask(stale{lease: l, left: true}) }

func (f *flows) ask(s stale) {
	if !slices.ContainsFunc(s.lease.Ports, func(p network.PortMapping) bool { return p.Protocol == network.UDP }) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, s)
	if !f.running {
		f.running = true
		f.done.Go(f.run)
	}
}

// wait returns when everything asked for is done.
func (f *flows) wait() { f.done.Wait() }

func (f *flows) close() {
	f.wait()
	f.handle.Close()
}

func (f *flows) run() {
	for {
		f.mu.Lock()
		asked := f.pending
		f.pending = nil
		f.running = len(asked) > 0
		f.mu.Unlock()
		if len(asked) == 0 {
			return
		}
		if err := f.end(asked); err != nil {
			slog.Warn("published UDP ports may still lead to pods before", "error", err)
		}
	}
}

// addresses are the host's. The kernel says of a list that a link or an address came
// or went while it was read: it is read again, and at last taken as it is.
func (f *flows) addresses() (all []netlink.Addr, err error) {
	for range 3 {
		if all, err = f.handle.AddrList(nil, unix.AF_UNSPEC); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}

func (f *flows) end(asked []stale) error {
	host, err := f.addresses()
	if err != nil {
		return fmt.Errorf("cannot list the host's addresses: %w", err)
	}
	filters := make([]netlink.CustomConntrackFilter, len(asked))
	for i, s := range asked {
		s.host = host
		filters[i] = s
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := f.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...); err != nil {
			return fmt.Errorf("cannot end old UDP flows: %w", err)
		}
	}
	return nil
}

// stale matches flows that a pod's coming or going has made wrong.
type stale struct {
	lease lease
	left  bool
	host  []netlink.Addr
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	server, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok || flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	ours := slices.Contains(s.lease.IPs, server.Unmap())
	if s.left {
		return ours
	}
	return !ours && slices.ContainsFunc(s.lease.Ports, func(p network.PortMapping) bool { return s.to(flow.Forward, p) })
}

// to says whether a packet to this destination belongs to the mapping.
func (s stale) to(flow netlink.IPTuple, p network.PortMapping) bool {
	if p.Protocol != network.UDP || p.HostPort != flow.DstPort {
		return false
	}
	if p.HostIP.IsValid() {
		return flow.DstIP.Equal(net.IP(p.HostIP.AsSlice()))
	}
	return flow.DstIP.IsLoopback() ||
		slices.ContainsFunc(s.host, func(a netlink.Addr) bool { return a.IP.Equal(flow.DstIP) })
}
