package cni

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/cri-box/cri-box/network"
)

// The annotations by which a pod asks plugins for addresses and a hardware
// address; plugins get them as the capabilities ips and mac.
const (
	ipsAnnotation = "cri-box.io/ips" // comma-separated, with or without a prefix length
	macAnnotation = "cri-box.io/mac"
)

// podArgs is CNI_ARGS as every container runtime sends it, in the same order.
func podArgs(pod network.Pod) ([][2]string, error) {
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", pod.Namespace},
		{"K8S_POD_NAME", pod.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", pod.ID},
		{"K8S_POD_UID", pod.UID},
	}
	for _, kv := range args {
		if strings.ContainsAny(kv[1], ";=\x00") {
			return nil, fmt.Errorf("cannot tell plugins %s=%q: it must not contain \";\" or \"=\"", kv[0], kv[1])
		}
	}
	return args, nil
}

// capabilities is what plugins that declare the capability get in runtimeConfig.
// What the pod does not have is left out.
func capabilities(pod network.Pod, podCIDRs []netip.Prefix) (map[string]any, error) {
	out := map[string]any{}
	if ports := portMappings(pod.Ports); len(ports) > 0 {
		out["portMappings"] = ports
	}
	if b := bandwidth(pod.Bandwidth); len(b) > 0 {
		out["bandwidth"] = b
	}
	if d := pod.DNS; len(d.Servers)+len(d.Searches)+len(d.Options) > 0 {
		out["dns"] = d
	}
	if pod.CgroupParent != "" {
		out["cgroupPath"] = pod.CgroupParent
	}
	if len(pod.Annotations) > 0 {
		out["io.kubernetes.cri.pod-annotations"] = pod.Annotations
	}
	if len(podCIDRs) > 0 {
		out["ipRanges"] = ipRanges(podCIDRs)
	}
	return out, wishes(pod.Annotations, out)
}

// wishes adds the addresses that the pod's annotations ask for.
func wishes(annotations map[string]string, out map[string]any) error {
	if text := annotations[ipsAnnotation]; text != "" {
		ips := strings.Split(text, ",")
		for i, ip := range ips {
			ips[i] = strings.TrimSpace(ip)
			_, notAddr := netip.ParseAddr(ips[i])
			_, notPrefix := netip.ParsePrefix(ips[i])
			if notAddr != nil && notPrefix != nil {
				return fmt.Errorf("cannot use annotation %s: %q is no IP address", ipsAnnotation, ips[i])
			}
		}
		out["ips"] = ips
	}
	if text := annotations[macAnnotation]; text != "" {
		if _, err := net.ParseMAC(text); err != nil {
			return fmt.Errorf("cannot use annotation %s: %w", macAnnotation, err)
		}
		out["mac"] = text
	}
	return nil
}

// portMapping is portmap's form of a published port.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(ports []network.PortMapping) []portMapping {
	var out []portMapping
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		one := portMapping{p.HostPort, p.ContainerPort, p.Protocol.String(), ""}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			one.HostIP = p.HostIP.Unmap().String()
		}
		out = append(out, one)
	}
	return out
}

// bandwidth is in bits per second and bits. The plugin wants a burst with each
// rate: a tenth of a second's traffic, but room for the largest packet (64 KiB).
func bandwidth(b network.Bandwidth) map[string]uint64 {
	out := map[string]uint64{}
	for name, rate := range map[string]uint64{"ingress": b.Ingress, "egress": b.Egress} {
		if rate > 0 {
			out[name+"Rate"] = rate
			out[name+"Burst"] = min(max(rate/10, 8*64<<10), math.MaxUint32)
		}
	}
	return out
}

// ipRanges is host-local's form: a list of sets of ranges, one address from each.
func ipRanges(podCIDRs []netip.Prefix) [][]map[string]string {
	var out [][]map[string]string
	for _, p := range podCIDRs {
		out = append(out, []map[string]string{{"subnet": p.String()}})
	}
	return out
}
