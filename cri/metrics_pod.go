package cri

import (
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/sandbox"
)

// podMetrics are those of the network, which a pod's containers share.
var podMetrics = []metric[sandbox.PodUse]{
	network("container_network_receive_bytes_total", "Bytes received.", func(i netns.Interface) uint64 { return i.RX.Bytes }),
	network("container_network_receive_packets_total", "Packets received.", func(i netns.Interface) uint64 { return i.RX.Packets }),
	network("container_network_receive_errors_total", "Errors while receiving.", func(i netns.Interface) uint64 { return i.RX.Errors }),
	network("container_network_receive_packets_dropped_total", "Received packets that were dropped.", func(i netns.Interface) uint64 { return i.RX.Dropped }),
	network("container_network_transmit_bytes_total", "Bytes transmitted.", func(i netns.Interface) uint64 { return i.TX.Bytes }),
	network("container_network_transmit_packets_total", "Packets transmitted.", func(i netns.Interface) uint64 { return i.TX.Packets }),
	network("container_network_transmit_errors_total", "Errors while transmitting.", func(i netns.Interface) uint64 { return i.TX.Errors }),
	network("container_network_transmit_packets_dropped_total", "Packets to transmit that were dropped.", func(i netns.Interface) uint64 { return i.TX.Dropped }),
}

func network(name, help string, read func(netns.Interface) uint64) metric[sandbox.PodUse] {
	return metric[sandbox.PodUse]{name, counter, []string{"interface"}, help, func(u *sandbox.PodUse) []reading {
		var out []reading
		for _, i := range u.Network.Interfaces {
			out = append(out, reading{read(i), []string{i.Name}})
		}
		return out
	}}
}
