package cni

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/cri-box/cri-box/network"
)

// ifName is the interface that the kubelet's statistics want.
const ifName = "eth0"

// understand turns the last plugin's result into ours. The pod's addresses are
// those of eth0 in the plugin's order; plugins that tell no interfaces have one.
func understand(raw types.Result) (network.Result, error) {
	if raw == nil {
		return network.Result{}, errors.New("cannot use the plugins' result: there is none")
	}
	r, err := types100.GetResult(raw)
	if err != nil {
		return network.Result{}, fmt.Errorf("cannot use the plugins' result: %w", err)
	}
	inside, hostLink, err := interfaces(r)
	if err != nil {
		return network.Result{}, err
	}
	out := network.Result{Interface: ifName, HostLink: hostLink}
	if len(inside) > 1 {
		out.Interfaces = inside
	}
	for _, one := range inside {
		if one.Name == ifName {
			out.IPs, out.MAC, out.MTU = one.IPs, one.MAC, one.MTU
		}
	}
	if len(out.IPs) == 0 {
		return network.Result{}, fmt.Errorf("cannot use the plugins' result: it has no address for %s", ifName)
	}
	return out, nil
}

// interfaces returns those in the pod with their addresses, and the host's end
// of the first.
func interfaces(r *types100.Result) (inside []network.Interface, hostLink string, err error) {
	place := map[int]int{} // index in the result to index in inside
	for i, one := range r.Interfaces {
		switch {
		case one == nil:
		case one.Sandbox != "":
			place[i] = len(inside)
			inside = append(inside, network.Interface{Name: one.Name, MAC: one.Mac, MTU: one.Mtu})
		case len(inside) == 0:
			hostLink = one.Name // of a bridge and a veth the veth, which stands before its peer
		}
	}
	if len(inside) == 0 {
		inside = []network.Interface{{Name: ifName}}
	}
	for _, ip := range r.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, "", fmt.Errorf("cannot use the plugins' result: %q is no address", ip.Address.IP)
		}
		at := 0
		if ip.Interface != nil {
			if at, ok = place[*ip.Interface]; !ok {
				continue // of an interface on the host
			}
		} else {
			at = named(inside, ifName)
		}
		inside[at].IPs = append(inside[at].IPs, addr.Unmap())
	}
	return inside, hostLink, nil
}

func named(all []network.Interface, name string) int {
	for i, one := range all {
		if one.Name == name {
			return i
		}
	}
	return 0
}
