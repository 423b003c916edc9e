package routed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Link is a veth that was made before there is a pod: up, with gateways and default
// routes, without addresses. Most of what a pod's network costs is in it, and all that
// grows with the number of pods: IPv6 looks through all routes of the host when a link
// comes up (rt6_sync_up).
//
// Its host end is named lately, by an altname, which the kernel finds as it finds names:
// to rename it would wait for RCU, and before Linux 6.2 an interface that is up cannot be.
type Link struct {
	net     *Network
	name    string // of the host's end: the prefix, s and seven digits
	mac     net.HardwareAddr
	mtu     int
	hostEnd netlink.Link
	podEnd  netlink.Link

	once sync.Once
	pod  *socket // in the namespace, which it keeps alive
}

// links are those that have no pod yet, by the name of the host's end.
type links struct {
	mu    sync.Mutex
	spare map[string]bool
}

func (l *links) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare == nil {
		l.spare = map[string]bool{}
	}
	l.spare[name] = true
}

func (l *links) drop(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.spare, name)
}

func (l *links) has(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spare[name]
}

// Ahead implements network.Network.
func (n *Network) Ahead(ctx context.Context, netns int) (io.Closer, error) {
	if n.closed.Load() {
		return nil, errClosed
	}
	var link *Link
	err := n.queue.do(ctx, func() (err error) {
		link, err = n.ahead(netns)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a pod's link ahead: %w", err)
	}
	return link, nil
}

func (n *Network) ahead(netns int) (_ *Link, err error) {
	n.measure() // here nobody waits for it
	var id [4]byte
	rand.Read(id[:])
	name := linkPrefix(n.instance) + "s" + hex.EncodeToString(id[:])[1:]
	w := n.wire(name, podMAC(name), netns)
	if w.pod, err = n.queue.inside(netns); err != nil {
		return nil, err
	}
	n.links.add(name)
	if err = n.lead(w); err != nil {
		w.pod.close()
		n.links.drop(name) // what there is of it ends with the namespace, or is swept
		return nil, err
	}
	return &Link{net: n, name: name, mac: w.mac, mtu: w.mtu, hostEnd: w.hostEnd, podEnd: w.podEnd, pod: w.pod}, nil
}

// lead makes all of the wire that is not a pod's own.
func (n *Network) lead(w *wire) error {
	if err := w.make(); err != nil {
		return err
	}
	b := &batch{}
	w.lead(b, n.pools)
	if err := w.pod.do(b, nil); err != nil {
		return err
	}
	b = &batch{}
	w.settle(b)
	return w.host.do(b, nil)
}

// Close lets go of a link that no pod got. It ends with its namespace, whose last
// reference is the caller's.
func (l *Link) Close() error {
	l.once.Do(func() {
		l.net.links.drop(l.name)
		l.pod.close()
	})
	return nil
}

// Remove closes the link and takes it out of its namespace, which somebody else is
// going to furnish.
func (l *Link) Remove() (err error) {
	l.once.Do(func() {
		b := &batch{}
		b.add(unix.RTM_DELLINK, 0, linkHead(l.podEnd.Attrs().Index, 0), "remove interface %s", podLink)
		b.allow(unix.ENODEV)
		err = l.pod.do(b, nil)
		l.net.links.drop(l.name)
		l.pod.close()
	})
	return err
}

// take makes the link the wire of a pod. It is false for one that is gone, or that
// another network made: then there is none in the namespace.
func (n *Network) take(w *wire, l *Link) (bool, error) {
	if l == nil {
		return false, nil
	}
	if l.net != n || l.mtu != n.mtu {
		return false, l.Remove()
	}
	err := n.name(l, w.name)
	if errors.Is(err, unix.EEXIST) { // the pod's own, of a namespace that it had before
		err = errors.Join(n.remove(w.name), n.name(l, w.name))
	}
	if gone(err) { // somebody removed it
		return false, l.Close()
	}
	w.mac, w.pod, w.hostEnd, w.podEnd = l.mac, l.pod, l.hostEnd, l.podEnd
	return true, err
}

// name gives the host's end the name that a pod's is found by.
func (n *Network) name(l *Link, name string) error {
	b := &batch{}
	b.add(unix.RTM_NEWLINKPROP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkHead(l.hostEnd.Attrs().Index, 0), "name interface %s", name)
	b.nest(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil, func() { b.text(unix.IFLA_ALT_IFNAME, name) })
	return n.rt.do(b, nil)
}

// podOf is the pod that an interface of ours is named after: the first eight digits
// of its id, or none for a link that has no pod yet.
func (n *Network) podOf(link netlink.Link) (podID8 string, ours bool) {
	prefix := linkPrefix(n.instance)
	for _, name := range append([]string{link.Attrs().Name}, link.Attrs().AltNames...) {
		rest, found := strings.CutPrefix(name, prefix)
		if !found || len(rest) != 8 && len(rest) != len(ifbName("12345678")) {
			continue
		}
		if ours = true; !strings.HasPrefix(rest, "s") {
			return rest[:8], true
		}
	}
	return "", ours
}
