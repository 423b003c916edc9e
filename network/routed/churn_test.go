package routed

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// Interfaces and addresses that come and go meanwhile keep neither flows from being
// ended nor what nobody owns from being found: the kernel says of a list that it
// changed while it was read.
func TestListsWhileLinksComeAndGo(t *testing.T) {
	l := newLab(t)
	l.in(l.node, func() error { // so that a list takes several readings
		for i := range 40 {
			if err := netlink.LinkAdd(pair(fmt.Sprintf("d%d", i))); err != nil {
				return err
			}
		}
		var many []string
		for i := range 1000 {
			many = append(many, fmt.Sprintf("198.18.%d.%d/32", i/250, i%250))
		}
		return address("up0", many...)
	})
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- l.churn(stop)
	}()
	for range 20 {
		if err := l.net.flows.end([]stale{{}}); err != nil {
			t.Error(err)
			break
		}
	}
	for range 20 {
		if err := l.net.Sweep(context.Background(), func(string) bool { return true }); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func pair(name string) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = name + "p"
	return veth
}

// churn gives the uplink an address and takes it back, over and over.
func (l *lab) churn(stop chan struct{}) error {
	var handle *netlink.Handle
	l.in(l.node, func() (err error) {
		handle, err = netlink.NewHandle()
		return err
	})
	defer handle.Close()
	link, err := handle.LinkByName("up0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 19, 0, 1), Mask: net.CIDRMask(32, 32)}}
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		veth := pair("churn")
		for _, change := range []func() error{
			func() error { return handle.AddrAdd(link, addr) }, func() error { return handle.AddrDel(link, addr) },
			func() error { return handle.LinkAdd(veth) }, func() error { return handle.LinkDel(veth) },
		} {
			if err := change(); err != nil {
				return err
			}
		}
	}
}
