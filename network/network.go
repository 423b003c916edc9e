// Package network is how the sandbox asks for a pod's network, whoever makes it:
//
//	sandbox ──Attach(pod)──▶ Network ──▶ network/routed   embedded, netlink in process
//	        ◀──Result──────
//
// A network names everything that it makes on the host after the pod's id, so
// that Detach needs nothing but the id and what nobody owns is found by listing.
package network

import (
	"context"
	"errors"
	"io"
	"net/netip"
)

// ErrPortTaken is wrapped by Attach's error when another pod has the host port.
// The error's text names that pod.
var ErrPortTaken = errors.New("host port is taken")

// ErrNoAddress is wrapped by Attach's error when the pod range is used up.
var ErrNoAddress = errors.New("no free address")

// ErrNotReady is wrapped by Attach's error when no pod may start; see Ready.
var ErrNotReady = errors.New("the network is not ready")

// A Network connects pods. All methods may be called concurrently.
type Network interface {
	// Attach connects a pod and returns what it got. It is idempotent by pod id:
	// a second call, also by a later process, gives the same addresses. After an
	// error the caller undoes with Detach.
	Attach(ctx context.Context, pod Pod) (Result, error)
	// Ahead makes what a pod's link consists of before there is the pod, in a new
	// network namespace: what it returns goes to Attach with id and namespace
	// (Pod.Link), or is closed and ends with the namespace. Nil: nothing is made
	// ahead.
	Ahead(ctx context.Context, id string, netns int) (io.Closer, error)
	// Detach takes the pods' ports, routes and addresses back. It needs no memory
	// beyond the ids, does what it can for each and joins the errors; an id that
	// was never attached is no error. The pod's own interface ends with its
	// network namespace, whose last reference the caller drops.
	Detach(ctx context.Context, ids ...string) error
	// Ready returns nil when a pod may start, otherwise the reason for a person.
	Ready() error
	// Sweep takes away what carries this instance's name and belongs to a pod
	// that keep does not know. It asks with the first eight digits of the pod's
	// id: an interface's name has no room for more.
	Sweep(ctx context.Context, keep func(podID8 string) bool) error
	// Close ends the network's goroutines. Attached pods stay connected.
	Close() error
}

// A Pod is what a network has to know about a pod.
type Pod struct {
	// ID is the pod sandbox's id, lower-case hex.
	ID string
	// Namespace, Name and UID are Kubernetes' names for it, for plugins and for
	// errors that name a pod.
	Namespace, Name, UID string
	// NetNS is an open descriptor of the pod's network namespace. It stays the
	// caller's and is used only during the call.
	NetNS int
	// Link is what Ahead made in NetNS; nil: nothing is there. Attach takes it over
	// whatever comes of the call.
	Link io.Closer
	// NetNSPath is where that namespace is pinned, for plugins that are given a
	// path. May be empty with the embedded network.
	NetNSPath string
	// Ports are the ports to publish; those without a host port are ignored.
	Ports []PortMapping
	// Labels and Annotations are the pod's own, for plugins that ask for them.
	Labels, Annotations map[string]string
	// Bandwidth limits the pod's traffic; Limits reads it from annotations.
	Bandwidth Bandwidth
	// DNS is the pod's resolver configuration, for plugins that ask for it.
	DNS DNS
	// CgroupParent is the pod's cgroup, for plugins that ask for it.
	CgroupParent string
}

// DNS is what a pod's resolv.conf says.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// A Protocol is a transport by its IP protocol number.
type Protocol uint8

// The transports that CRI names.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the protocol's name in lower case.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "unknown"
}

// A PortMapping publishes a pod's port on the host.
type PortMapping struct {
	Protocol      Protocol `json:"protocol"`
	ContainerPort uint16   `json:"container_port"`
	// HostPort is the port on the host; 0 publishes nothing.
	HostPort uint16 `json:"host_port"`
	// HostIP limits the mapping to one of the host's addresses. The zero Addr and
	// the unspecified addresses 0.0.0.0 and :: stand for all addresses of all
	// families, as Kubernetes has it.
	HostIP netip.Addr `json:"host_ip"`
}

// A Result is what a pod got. It goes into the pod's record as JSON.
type Result struct {
	// IPs are the pod's addresses, the one to show first.
	IPs []netip.Addr `json:"ips"`
	// Interface is the name inside the pod: eth0.
	Interface string `json:"interface"`
	// HostLink is the name of the host's end; empty if the network does not tell.
	HostLink string `json:"host_link,omitempty"`
	// MAC is the hardware address inside the pod.
	MAC string `json:"mac,omitempty"`
	// MTU is the interface's MTU in bytes; 0 if the network does not tell.
	MTU int `json:"mtu,omitempty"`
	// Interfaces are all that a plugin made in the pod, when there are several.
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// An Interface is one of several in a pod.
type Interface struct {
	Name string       `json:"name"`
	MAC  string       `json:"mac,omitempty"`
	MTU  int          `json:"mtu,omitempty"`
	IPs  []netip.Addr `json:"ips,omitempty"`
}
