package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podsCommand(n *node) *cobra.Command {
	return &cobra.Command{
		Use:   "pods",
		Short: "List pods with their addresses",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.pods(ctx) })
		},
	}
}

func (c *client) pods(ctx context.Context) error {
	resp, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	slices.SortFunc(resp.Items, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	if c.format == "json" {
		return printMessages(resp.Items)
	}
	rows := [][]string{{"POD", "NAME", "NAMESPACE", "STATE", "AGE", "ADDRESS"}}
	for _, p := range resp.Items {
		state := strings.ToLower(strings.TrimPrefix(p.State.String(), "SANDBOX_"))
		rows = append(rows, []string{short(p.Id), p.GetMetadata().GetName(), p.GetMetadata().GetNamespace(), state, age(p.CreatedAt), c.addresses(ctx, p.Id)})
	}
	return printTable(os.Stdout, rows)
}

// addresses are a pod's addresses, "-" on the node's own network.
func (c *client) addresses(ctx context.Context, id string) string {
	resp, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil || resp.GetStatus().GetNetwork().GetIp() == "" {
		return "-"
	}
	list := []string{resp.Status.Network.Ip}
	for _, more := range resp.Status.Network.AdditionalIps {
		list = append(list, more.Ip)
	}
	return strings.Join(list, ",")
}
