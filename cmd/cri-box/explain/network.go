package explain

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// lookNetwork asks the pod's network namespace by netlink.
func (p *Pod) lookNetwork() {
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return
	}
	defer ns.Close()
	if p.Shared["net"] == "" { // no container runs that would show it
		if id := ns.String(); id != "" {
			p.Shared["net"] = inode(ns)
		}
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return
	}
	for _, l := range links {
		p.Links = append(p.Links, link(h, l))
	}
	p.Routes = routes(h)
}

func inode(ns netns.NsHandle) string {
	var dev, ino uint64
	if _, err := fmt.Sscanf(ns.UniqueId(), "NS(%d:%d)", &dev, &ino); err != nil {
		return ""
	}
	return fmt.Sprintf("net:[%d]", ino)
}

func link(h *netlink.Handle, l netlink.Link) Link {
	a := l.Attrs()
	out := Link{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU}
	addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err == nil {
		for _, addr := range addrs {
			out.Addresses = append(out.Addresses, addr.IPNet.String())
		}
	}
	if l.Type() == "veth" && a.ParentIndex != 0 {
		peer, err := netlink.LinkByIndex(a.ParentIndex)
		if err == nil && peer.Type() == "veth" && peer.Attrs().ParentIndex == a.Index {
			out.Peer = peer.Attrs().Name
		}
	}
	return out
}

// routes are those of the main table, as ip-route(8) shows them.
func routes(h *netlink.Handle) (list []string) {
	all, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	for _, r := range all {
		text := "default"
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			text = r.Dst.String()
		}
		if r.Gw != nil {
			text += " via " + r.Gw.String()
		}
		if l, err := h.LinkByIndex(r.LinkIndex); err == nil {
			text += " dev " + l.Attrs().Name
		}
		list = append(list, text)
	}
	return list
}
