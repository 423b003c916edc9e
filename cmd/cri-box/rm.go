package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func rmCommand(n *node) *cobra.Command {
	var pods, force bool
	c := &cobra.Command{
		Use:   "rm CONTAINER...",
		Short: "Remove containers, or with --pod pods",
		Long: "Remove containers that have ended, or with --pod pods and all in them. A pod that\n" +
			"`cri-box run` made goes with its container.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error {
				return c.each(args, func(ref string) (string, error) {
					if pods {
						return c.removePod(ctx, ref, force)
					}
					return c.removeContainer(ctx, ref, force)
				})
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also what runs")
	c.Flags().BoolVarP(&pods, "pod", "p", false, "the names are those of pods")
	c.ValidArgsFunction = n.complete(0, containerNames)
	return c
}

func (c *client) removeContainer(ctx context.Context, ref string, force bool) (string, error) {
	x, err := c.container(ctx, ref)
	if err != nil {
		return "", err
	}
	if x.State == runtimeapi.ContainerState_CONTAINER_RUNNING && !force {
		return "", fmt.Errorf("cannot remove container %s: it runs; stop it first, or use --force", short(x.Id))
	}
	if x.Labels[runLabel] != "" {
		return x.Id, c.dropPod(ctx, x.PodSandboxId)
	}
	_, err = c.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: x.Id})
	return x.Id, err
}

func (c *client) removePod(ctx context.Context, ref string, force bool) (string, error) {
	p, err := c.pod(ctx, ref)
	if err != nil {
		return "", err
	}
	if p.State == runtimeapi.PodSandboxState_SANDBOX_READY && !force {
		return "", fmt.Errorf("cannot remove pod %s: it is ready; stop it first, or use --force", short(p.Id))
	}
	return p.Id, c.dropPod(ctx, p.Id)
}
