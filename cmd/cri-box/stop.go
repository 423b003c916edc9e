package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func stopCommand(n *node) *cobra.Command {
	var grace time.Duration
	var pods bool
	c := &cobra.Command{
		Use:   "stop CONTAINER...",
		Short: "Stop containers, or with --pod pods",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound+grace*time.Duration(len(args)), func(ctx context.Context, c *client) error {
				return each(args, func(ref string) (string, error) {
					if pods {
						return c.stopPod(ctx, ref)
					}
					return c.stopContainer(ctx, ref, grace)
				})
			})
		},
	}
	c.Flags().DurationVarP(&grace, "time", "t", 10*time.Second, "how long a container may take before it is killed")
	c.Flags().BoolVarP(&pods, "pod", "p", false, "the names are those of pods: all in them ends")
	return c
}

// each does the same with every name, prints the ids, and returns the first error.
func each(refs []string, do func(ref string) (id string, err error)) error {
	for _, ref := range refs {
		id, err := do(ref)
		if err != nil {
			return err
		}
		fmt.Println(id)
	}
	return nil
}

func (c *client) stopContainer(ctx context.Context, ref string, grace time.Duration) (string, error) {
	x, err := c.container(ctx, ref)
	if err != nil {
		return "", err
	}
	_, err = c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: x.Id, Timeout: int64(grace / time.Second)})
	return x.Id, err
}

func (c *client) stopPod(ctx context.Context, ref string) (string, error) {
	p, err := c.pod(ctx, ref)
	if err != nil {
		return "", err
	}
	_, err = c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
	return p.Id, err
}
