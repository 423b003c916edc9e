package routed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Link is a pod's veth that was made before the pod: up, with gateways and default
// routes, without addresses. Most of what a pod's network costs is in it, and all that
// grows with the number of pods: IPv6 looks through all routes of the host when a link
// comes up, and whenever something about it changes (rt6_sync_up): to name it later, by
// an altname too, would be such a change.
type Link struct {
	net     *Network
	name    string // of the host's end
	mtu     int
	hostEnd netlink.Link
	podEnd  netlink.Link

	once sync.Once
	pod  *socket // in the namespace, which it keeps alive
}

// links are those whose pod is not attached yet, by the name of the host's end, and
// those that no pod got.
type links struct {
	mu     sync.Mutex
	spare  map[string]bool
	unused map[string]bool
}

func (l *links) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare == nil {
		l.spare, l.unused = map[string]bool{}, map[string]bool{}
	}
	l.spare[name] = true
}

func (l *links) drop(name string, unused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.spare, name)
	if unused {
		l.unused[name] = true
	}
}

func (l *links) has(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spare[name]
}

// takeUnused returns the names that no pod got since it was last asked.
func (l *links) takeUnused() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := slices.Collect(maps.Keys(l.unused))
	clear(l.unused)
	return names
}

// Ahead implements network.Network.
func (n *Network) Ahead(ctx context.Context, id string, netns int) (io.Closer, error) {
	if err := n.usable(id); err != nil {
		return nil, err
	}
	var link *Link
	err := n.queue.do(ctx, func() (err error) {
		link, err = n.ahead(id, netns)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a pod's link ahead: %w", err)
	}
	return link, nil
}

func (n *Network) ahead(id string, netns int) (_ *Link, err error) {
	n.measure() // here nobody waits for it
	w := n.wire(id, netns)
	if w.pod, err = n.queue.inside(netns); err != nil {
		return nil, err
	}
	n.links.add(w.name)
	if err = n.lead(w); err != nil {
		w.pod.close()
		n.links.drop(w.name, !errors.Is(err, unix.EEXIST)) // what is there ends with the namespace
		return nil, err
	}
	return &Link{net: n, name: w.name, mtu: w.mtu, hostEnd: w.hostEnd, podEnd: w.podEnd, pod: w.pod}, nil
}

// lead makes all of the wire that is not a pod's own.
func (n *Network) lead(w *wire) error {
	if err := w.host.do(w.veth(), nil); err != nil { // one that is there is somebody's
		return err
	}
	if err := w.up(); err != nil {
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
// reference is the caller's, or at the latest with the network.
func (l *Link) Close() error {
	l.release(true)
	return nil
}

func (l *Link) release(unused bool) {
	l.once.Do(func() {
		l.net.links.drop(l.name, unused)
		l.pod.close()
	})
}

// Remove closes the link and takes it out of its namespace, which somebody else is
// going to furnish.
func (l *Link) Remove() (err error) {
	l.once.Do(func() {
		b := &batch{}
		b.add(unix.RTM_DELLINK, 0, linkHead(l.podEnd.Attrs().Index, 0), "remove interface %s", podLink)
		b.allow(unix.ENODEV)
		err = l.pod.do(b, nil)
		l.net.links.drop(l.name, false)
		l.pod.close()
	})
	return err
}

// take makes the link the wire of its pod. It is false for one that does not fit, or
// that another network made; then there is none in the namespace.
func (n *Network) take(w *wire, l *Link) (bool, error) {
	if l == nil {
		return false, nil
	}
	if l.net != n || l.name != w.name || l.mtu != n.mtu {
		return false, l.Remove()
	}
	w.pod, w.hostEnd, w.podEnd = l.pod, l.hostEnd, l.podEnd
	return true, nil
}
