package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The two ends of the node's uplink.
const (
	NodeIPv4    = "192.0.2.1"
	OutsideIPv4 = "192.0.2.2"
	NodeIPv6    = "2001:db8::1"
	OutsideIPv6 = "2001:db8::2"

	uplink = "uplink" // the link's name in the node's namespace
)

// A Net is a network namespace that exists as long as its descriptor is open.
type Net struct {
	fd   *os.File
	Name string // for messages: "node", "outside"
}

// newNet makes a network namespace, with lo up and both families forwarding as
// the kernel starts them.
func newNet(name string) (*Net, error) {
	n := &Net{Name: name}
	err := OnThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.fd, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the %s network namespace: %w", name, err)
	}
	return n, nil
}

// OnThread runs fn on a thread of its own that ends with it: the thread may
// change namespace and is never given back. It is never the process's first one,
// which Go does not end: that one would keep the namespace, and have it told as the
// whole process's by /proc.
func OnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			done <- OnThread(fn) // on another one, for this goroutine occupies the first
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// Do runs fn on a thread inside the namespace. What fn starts on other
// goroutines is outside again; processes that it starts are inside.
func (n *Net) Do(fn func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter the %s network namespace: %w", n.Name, err)
		}
		return fn()
	})
}

// Close gives the namespace up.
func (n *Net) Close() error { return n.fd.Close() }

// Inode identifies the namespace, as in "net:[4026531840]".
func (n *Net) Inode() (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.fd.Fd()), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("net:[%d]", st.Ino), nil
}

// Handle opens netlink sockets inside the namespace; the caller closes it.
func (n *Net) Handle() (*netlink.Handle, error) {
	return netlink.NewHandleAt(netns.NsHandle(n.fd.Fd()))
}

// Dial connects from inside the namespace. The address is a literal: a name
// would be looked up by another thread.
func (n *Net) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the namespace.
func (n *Net) Listen(address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// Client returns an HTTP client whose connections begin in the namespace.
func (n *Net) Client() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true},
	}
}

// Serve answers HTTP inside the namespace until the test ends.
func (n *Net) Serve(t testing.TB, address string, handler http.Handler) {
	t.Helper()
	l, err := n.Listen(address)
	if err != nil {
		t.Fatalf("cannot listen on %s in the %s namespace: %v", address, n.Name, err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// NewNode makes the node's network namespace with an uplink to another that
// plays the rest of the world. The outside knows no way back to a pod's address:
// what comes from a pod has to be masqueraded.
func NewNode() (node, outside *Net, err error) {
	if node, err = newNet("node"); err != nil {
		return nil, nil, err
	}
	if outside, err = newNet("outside"); err != nil {
		node.Close()
		return nil, nil, err
	}
	if err = connect(node, outside); err != nil {
		node.Close()
		outside.Close()
		return nil, nil, fmt.Errorf("cannot connect the node to the outside: %w", err)
	}
	return node, outside, nil
}

func connect(node, outside *Net) error {
	h, err := node.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = uplink
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerNamespace: netlink.NsFd(outside.fd.Fd())}
	if err := h.LinkAdd(veth); err != nil {
		return err
	}
	o, err := outside.Handle()
	if err != nil {
		return err
	}
	defer o.Close()
	if err := configure(h, NodeIPv4, NodeIPv6); err != nil {
		return err
	}
	if err := configure(o, OutsideIPv4, OutsideIPv6); err != nil {
		return err
	}
	if err := defaultRoutes(h); err != nil {
		return err
	}
	if err := settle(h, NodeIPv6); err != nil {
		return err
	}
	return settle(o, OutsideIPv6)
}

// settle waits for the route that the kernel makes for a v6 address, in a worker
// of its own, once the link has a carrier: until then the address does not answer.
func settle(h *netlink.Handle, address string) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL}
	there := within(waitTimeout, func() bool {
		routes, err := h.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_TABLE)
		return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.Dst != nil && r.Dst.IP.Equal(net.ParseIP(address))
		})
	})
	if !there {
		return fmt.Errorf("no local route for %s within %v", address, waitTimeout)
	}
	return nil
}

func configure(h *netlink.Handle, addresses ...string) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	link, err := h.LinkByName(uplink)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		ip, bits := net.ParseIP(a), 24
		if ip.To4() == nil {
			bits = 64
		}
		// Without duplicate detection, a v6 address is there at once.
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, width(ip))}, Flags: unix.IFA_F_NODAD}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("cannot add %s: %w", a, err)
		}
	}
	return h.LinkSetUp(link)
}

func width(ip net.IP) int {
	if ip.To4() != nil {
		return 32
	}
	return 128
}

func defaultRoutes(h *netlink.Handle) error {
	for _, gw := range []string{OutsideIPv4, OutsideIPv6} {
		if err := h.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
			return fmt.Errorf("cannot add the default route by %s: %w", gw, err)
		}
	}
	return nil
}

// Links are the host's ends of pods' links on the node, also of those that are made
// before their pods.
func (i *Instance) Links() (names []string) {
	i.T.Helper()
	h, err := i.Node.Handle()
	if err != nil {
		i.T.Fatal(err)
	}
	defer h.Close()
	all, err := h.LinkList()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil // one came or went meanwhile: who waits asks again
	}
	if err != nil {
		i.T.Fatal(err)
	}
	for _, l := range all {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, "cb") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}
