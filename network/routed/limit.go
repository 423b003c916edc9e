package routed

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// What a pod receives is shaped where the host's end sends (tbf). What it sends
// cannot be shaped where it arrives, so it is led through an ifb that sends it to
// itself: both on the host, out of the pod's reach.
//
//	pod ─▶ veth ─ingress, mirred─▶ ifb ─tbf─▶ host        host ─tbf─▶ veth ─▶ pod

// queueing is how long a packet may wait for its turn, in seconds, before the next
// ones are dropped.
const queueing = 0.05

// ifbName is the pod's ifb: 15 bytes, the longest that an interface may have.
func ifbName(link string) string { return link + "i" }

// limit makes the wire no faster than b; again with other values is allowed.
func (w *wire) limit(b network.Bandwidth) error {
	if b.Ingress > 0 {
		if err := w.shape(w.hostEnd, b.Ingress); err != nil {
			return fmt.Errorf("cannot limit what the pod receives: %w", err)
		}
	}
	if b.Egress > 0 {
		if err := w.limitEgress(b.Egress); err != nil {
			return fmt.Errorf("cannot limit what the pod sends: %w", err)
		}
	}
	return nil
}

// shape puts a token bucket of bits per second on a link. Its burst is a tenth of
// a second, but room for the largest packet that segmentation offload makes.
func (w *wire) shape(link netlink.Link, bits uint64) error {
	rate := bits / 8
	burst := uint32(min(max(rate/10, 64<<10), 1<<30))
	err := w.handle.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: netlink.Xmittime(rate, burst), Limit: uint32(min(float64(rate)*queueing+float64(burst), 1<<31)),
	})
	return explainMissing(err, "tbf", "sch_tbf")
}

func (w *wire) limitEgress(bits uint64) error {
	ifb, err := w.ifb()
	if err != nil {
		return err
	}
	if err := w.shape(ifb, bits); err != nil {
		return err
	}
	if err := w.handle.LinkSetUp(ifb); err != nil {
		return fmt.Errorf("cannot bring interface %s up: %w", ifbName(w.name), err)
	}
	index := w.hostEnd.Attrs().Index
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	_ = w.handle.QdiscDel(ingress) // with the filter of an earlier attempt; mostly there is none
	if err := w.handle.QdiscAdd(ingress); err != nil {
		return explainMissing(err, "ingress", "sch_ingress")
	}
	err = w.handle.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
		Actions:     []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)},
	})
	return explainMissing(err, "redirection", "cls_u32 and act_mirred")
}

// ifb makes the pod's ifb or finds the one that is there.
func (w *wire) ifb() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = ifbName(w.name), w.mtu
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	if err := w.handle.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, explainMissing(err, "interface "+attrs.Name, "ifb")
	}
	link, err := w.handle.LinkByName(attrs.Name)
	if err != nil {
		return nil, fmt.Errorf("cannot find interface %s: %w", attrs.Name, err)
	}
	return link, nil
}

// explainMissing names the kernel module that a bare ENOENT or EOPNOTSUPP is about.
func explainMissing(err error, what, module string) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("cannot make %s: %w (does the kernel have the module %s?)", what, err, module)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", what, err)
	}
	return nil
}
