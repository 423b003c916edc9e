package cri

import (
	"context"
	"encoding/json"

	"github.com/cri-box/cri-box/sandbox"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus describes one pod.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	p, err := s.Sandboxes.Pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: podStatus(p)}
	if r.GetVerbose() {
		resp.Info, err = s.podInfo(p)
	}
	return resp, err
}

func podState(p *sandbox.Pod) runtimeapi.PodSandboxState {
	if p.Ready() {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func podStatus(p *sandbox.Pod) *runtimeapi.PodSandboxStatus {
	c := p.Config.Of
	return &runtimeapi.PodSandboxStatus{
		Id: p.ID, Metadata: c.GetMetadata(), State: podState(p), CreatedAt: p.CreatedAt.UnixNano(),
		Network: podNetwork(p), Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: podNamespaces(p)}},
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), RuntimeHandler: p.Handler,
	}
}

func podNamespaces(p *sandbox.Pod) *runtimeapi.NamespaceOption {
	if n := p.Config.Of.GetLinux().GetSecurityContext().GetNamespaceOptions(); n != nil {
		return n
	}
	return &runtimeapi.NamespaceOption{}
}

// podNetwork has the addresses; none on the node's network, which the kubelet
// knows by itself.
func podNetwork(p *sandbox.Pod) *runtimeapi.PodSandboxNetworkStatus {
	n := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range p.Network.IPs {
		if i == 0 {
			n.Ip = ip.String()
			continue
		}
		n.AdditionalIps = append(n.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return n
}

// podInfo is what crictl inspectp shows more: the kubelet's device plugins and
// others read the network namespace's path there. pid is 0: no process holds a
// pod.
func (s *Server) podInfo(p *sandbox.Pod) (map[string]string, error) {
	info := struct {
		PID         int            `json:"pid"`
		RuntimeSpec *specs.Spec    `json:"runtimeSpec"`
		Pod         *sandbox.Pod   `json:"config"`
		Stage       *sandbox.Stage `json:"stage,omitempty"`
	}{Pod: p, RuntimeSpec: &specs.Spec{Linux: &specs.Linux{}}, Stage: s.Sandboxes.PodStage(p.ID)}
	if len(p.Network.IPs) > 0 {
		info.RuntimeSpec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: s.Sandboxes.NetNSPath(p.ID)}}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(b)}, nil
}
