package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/explain"
	"github.com/cri-box/cri-box/sandbox"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podFacts is what the CRI says of a pod.
func podFacts(resp *runtimeapi.PodSandboxStatusResponse) explain.Pod {
	st := resp.GetStatus()
	p := explain.Pod{ID: st.GetId(), Name: st.GetMetadata().GetName(), Namespace: st.GetMetadata().GetNamespace(), State: "not ready", Network: "its own"}
	if st.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
		p.State = "ready"
	}
	if st.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		p.Network = "the node's"
	}
	var info struct {
		RuntimeSpec struct {
			Linux struct{ Namespaces []struct{ Type, Path string } }
		}
		Config struct {
			CgroupParent string `json:"cgroup_parent"`
			Config       struct {
				PortMappings []struct {
					Protocol                string
					ContainerPort, HostPort int
					HostIP                  string `json:"hostIp"`
				}
			}
		}
	}
	if json.Unmarshal([]byte(resp.GetInfo()["info"]), &info) != nil {
		return p
	}
	for _, ns := range info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			p.NetNS = ns.Path
		}
	}
	p.Cgroup = info.Config.CgroupParent
	for _, m := range info.Config.Config.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		protocol := strings.ToLower(m.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		host := fmt.Sprint(m.HostPort)
		if m.HostIP != "" {
			host = m.HostIP + ":" + host
		}
		p.Published = append(p.Published, explain.Port{Protocol: protocol, Host: m.HostPort, Pod: m.ContainerPort})
		p.Ports = append(p.Ports, fmt.Sprintf("%s %s on the node is %d here", protocol, host, m.ContainerPort))
	}
	return p
}

// containerFacts is what the CRI says of a container.
func (c *client) containerFacts(ctx context.Context, id string) (x explain.Container, err error) {
	resp, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return x, err
	}
	st := resp.Status
	x = explain.Container{ID: st.Id, Name: st.GetMetadata().GetName(), Image: st.GetImage().GetImage(),
		State: strings.ToLower(strings.TrimPrefix(st.State.String(), "CONTAINER_"))}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil {
		return x, fmt.Errorf("cannot read what the daemon says of container %s: %w", id, err)
	}
	x.PID = info.PID
	if st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		x.End = strings.TrimSpace(fmt.Sprintf("code %d, %s %s", st.ExitCode, st.Reason, st.Message))
		return x, nil
	}
	stats, err := c.runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return x, err
	}
	x.Limits = limitTexts(st.GetResources().GetLinux(), stats.GetStats())
	return x, nil
}

// limitTexts says what a container uses and may use.
func limitTexts(r *runtimeapi.LinuxContainerResources, use *runtimeapi.ContainerStats) (list []string) {
	memory := "memory " + bytesText(use.GetMemory().GetWorkingSetBytes().GetValue())
	if limit := r.GetMemoryLimitInBytes(); limit > 0 {
		memory += " of " + bytesText(uint64(limit))
	}
	cpu := "cpu " + time.Duration(use.GetCpu().GetUsageCoreNanoSeconds().GetValue()).Round(time.Millisecond).String()
	if quota, period := r.GetCpuQuota(), r.GetCpuPeriod(); quota > 0 && period > 0 {
		cpu += fmt.Sprintf(", at most %.3g of a processor", float64(quota)/float64(period))
	}
	if shares := r.GetCpuShares(); shares > 0 {
		cpu += fmt.Sprintf(", weight %d shares", shares)
	}
	return append(list, memory, cpu)
}

// explainTimes prints the steps of a pod's making and of its containers'.
func (c *client) explainTimes(ctx context.Context, podID string) error {
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: podID}})
	if err != nil {
		return err
	}
	made := []steps{{Of: "pod " + short(podID), id: podID}}
	for _, x := range list.Containers {
		made = append(made, steps{Of: "container " + x.GetMetadata().GetName(), id: x.Id})
	}
	for i := range made {
		if err := made[i].ask(ctx, c.settings.state); err != nil {
			return err
		}
	}
	if c.format == "json" {
		return printJSON(made)
	}
	for _, m := range made {
		m.print()
	}
	return nil
}

// steps are what something went through on its way up.
type steps struct {
	Of    string           `json:"of"`
	Steps []sandbox.Timing `json:"steps"`
	id    string
}

func (s *steps) ask(ctx context.Context, state string) error {
	body, err := ask(ctx, state, http.MethodGet, "/times/"+s.id)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&s.Steps); err != nil {
		return fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	return nil
}

// print draws a bar for each step, as long as its share of the longest.
func (s *steps) print() {
	fmt.Println(visible(s.Of))
	if len(s.Steps) == 0 {
		fmt.Println("  made by a daemon before this one, which took its times with it")
	}
	var longest time.Duration
	for _, t := range s.Steps {
		longest = max(longest, t.Took)
	}
	for _, t := range s.Steps {
		bar := int(40 * t.Took / max(longest, 1))
		fmt.Fprintf(os.Stdout, "  %-24s %9s  %s\n", t.Name, t.Took.Round(time.Microsecond), strings.Repeat("▇", bar))
	}
}
