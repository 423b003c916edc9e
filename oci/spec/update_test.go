package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMergeResources(t *testing.T) {
	have := &runtimeapi.LinuxContainerResources{CpuShares: 1, CpuQuota: 5000, CpusetCpus: "0-1", Unified: map[string]string{"memory.low": "1", "memory.high": "2"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "1GB", Limit: 2}}}
	before := proto.Clone(have)
	change := &runtimeapi.LinuxContainerResources{CpuQuota: -1, MemoryLimitInBytes: 9, Unified: map[string]string{"memory.high": "3"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 7}}}
	want := &runtimeapi.LinuxContainerResources{CpuShares: 1, CpuQuota: -1, CpusetCpus: "0-1", MemoryLimitInBytes: 9, Unified: map[string]string{"memory.low": "1", "memory.high": "3"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 7}, {PageSize: "1GB", Limit: 2}}}
	if got := MergeResources(have, change); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !proto.Equal(have, before) {
		t.Errorf("what was there became %v", have)
	}
	if got := MergeResources(nil, nil); got == nil {
		t.Error("nothing over nothing is nil")
	}
}

// TestUpdateKeepsTheRest: devices and pids are not the request's.
func TestUpdateKeepsTheRest(t *testing.T) {
	limit, adj := int64(100), 5
	base := &specs.Spec{Process: &specs.Process{OOMScoreAdj: &adj, Args: []string{"a"}}, Linux: &specs.Linux{CgroupsPath: "/x",
		Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true}}, Pids: &specs.LinuxPids{Limit: &limit}}}}
	got, err := Update(base, &runtimeapi.LinuxContainerResources{CpuShares: 77, OomScoreAdj: -900}, Host{MinOOMScoreAdj: -10})
	if err != nil {
		t.Fatal(err)
	}
	r := got.Linux.Resources
	if len(r.Devices) != 1 || r.Pids == nil || r.CPU == nil || *r.CPU.Shares != 77 || got.Linux.CgroupsPath != "/x" || got.Process.Args[0] != "a" {
		t.Errorf("the updated spec is %+v", r)
	}
	if *got.Process.OOMScoreAdj != -10 {
		t.Errorf("oom_score_adj %d, which this daemon may not set", *got.Process.OOMScoreAdj)
	}
	if base.Linux.Resources.CPU != nil || *base.Process.OOMScoreAdj != 5 {
		t.Error("the old spec was changed")
	}
}

func TestRestoreEnv(t *testing.T) {
	p := &specs.Process{Env: []string{"PATH=/bin", "RAW=\ufffd", "IMAGE=kept"}}
	RestoreEnv(p, &runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "RAW", Value: []byte("no")}, {Key: "RAW", Value: []byte("\xff=")}, {Key: "GONE", Value: []byte("x")}}})
	if got := strings.Join(p.Env, "|"); got != "PATH=/bin|RAW=\xff=|IMAGE=kept" {
		t.Errorf("the environment is %q", got)
	}
}

func TestCheckPodCIDR(t *testing.T) {
	for text, good := range map[string]bool{"": true, "10.1.0.0/16": true, "10.1.0.0/16,fd00::/64": true, "10.1.2.3/16": false, "10.1.0.0": false, "10.1.0.0/16,": false} {
		err := CheckPodCIDR(text)
		if (err == nil) != good || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCheckPodResources(t *testing.T) {
	err := CheckPodResources(&runtimeapi.UpdatePodSandboxResourcesRequest{Overhead: &runtimeapi.LinuxContainerResources{CpuShares: -1},
		Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: 1}})
	if err == nil || !strings.Contains(err.Error(), "overhead.cpu_shares") || !strings.Contains(err.Error(), "resources.cpu_period") {
		t.Errorf("%v does not name both fields", err)
	}
}
