package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func psCommand(n *node) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "List containers",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.ps(ctx, all) })
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also those that do not run")
	return c
}

func (c *client) ps(ctx context.Context, all bool) error {
	request := &runtimeapi.ListContainersRequest{}
	if !all {
		request.Filter = &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	}
	resp, err := c.runtime.ListContainers(ctx, request)
	if err != nil {
		return err
	}
	slices.SortFunc(resp.Containers, func(a, b *runtimeapi.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	if c.format == "json" {
		return printMessages(resp.Containers)
	}
	pods, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	names := podNames(pods.Items)
	rows := [][]string{{"CONTAINER", "NAME", "IMAGE", "STATE", "AGE", "POD"}}
	for _, x := range resp.Containers {
		state := strings.ToLower(strings.TrimPrefix(x.State.String(), "CONTAINER_"))
		if x.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			state += c.exitText(ctx, x.Id)
		}
		rows = append(rows, []string{short(x.Id), x.GetMetadata().GetName(), x.GetImage().GetImage(), state, age(x.CreatedAt), names[x.PodSandboxId]})
	}
	return printTable(os.Stdout, rows)
}

// exitText is how a container ended, "" if that is not to be had.
func (c *client) exitText(ctx context.Context, id string) string {
	resp, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return ""
	}
	return " (" + strconv.Itoa(int(resp.GetStatus().GetExitCode())) + " " + resp.GetStatus().GetReason() + ")"
}
