package spec

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// MergeResources puts change over have: what change leaves at its zero value
// stays, entries of unified and hugepage_limits by their key. Neither is changed;
// either may be nil.
func MergeResources(have, change *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if have != nil {
		out = proto.Clone(have).(*runtimeapi.LinuxContainerResources)
	}
	if change != nil {
		pages := out.HugepageLimits
		out.HugepageLimits = nil
		proto.Merge(out, change)
		for _, old := range pages {
			same := func(h *runtimeapi.HugepageLimit) bool { return h.GetPageSize() == old.GetPageSize() }
			if !slices.ContainsFunc(out.HugepageLimits, same) {
				out.HugepageLimits = append(out.HugepageLimits, old)
			}
		}
	}
	return out
}

// Update returns base with the limits of r, which are all of the container's, in
// place of its own. base is not changed.
func Update(base *specs.Spec, r *runtimeapi.LinuxContainerResources, host Host) (*specs.Spec, error) {
	limits, err := Resources(r, host)
	if err != nil {
		return nil, err
	}
	out, linux, process := *base, *base.Linux, *base.Process
	if old := base.Linux.Resources; old != nil {
		limits.Devices, limits.Pids = old.Devices, old.Pids
	}
	linux.Resources = limits
	adj := max(int(r.GetOomScoreAdj()), host.MinOOMScoreAdj)
	process.OOMScoreAdj = &adj
	out.Linux, out.Process = &linux, &process
	return &out, nil
}

// RestoreEnv puts the request's values back into an environment that went
// through JSON, which cannot hold bytes that are no UTF-8.
func RestoreEnv(p *specs.Process, c *runtimeapi.ContainerConfig) {
	at := map[string]int{}
	for i, e := range p.Env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range c.GetEnvs() {
		if i, set := at[e.GetKey()]; set {
			p.Env[i] = e.GetKey() + "=" + string(e.GetValue())
		}
	}
}

// CheckPodResources checks the limits of a pod as the kubelet reports them.
func CheckPodResources(r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	var wrong findings
	for _, part := range []struct {
		name string
		of   *runtimeapi.LinuxContainerResources
	}{{"overhead", r.GetOverhead()}, {"resources", r.GetResources()}} {
		if err := checkResources(part.of); err != nil {
			var inner findings
			inner.note(err)
			for _, text := range inner {
				wrong.add("%s", strings.ReplaceAll(text, "linux.resources.", part.name+"."))
			}
		}
	}
	return wrong.err()
}

// CheckPodCIDR checks the node's range of pod addresses: one CIDR or, with two
// IP families, two with a comma between. "" leaves the range to the node.
func CheckPodCIDR(text string) error {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		if p, err := netip.ParsePrefix(part); err != nil || p != p.Masked() {
			return invalid("runtime_config.network_config.pod_cidr %q is no range such as 10.244.1.0/24, or two with a comma between", text)
		}
	}
	return nil
}
