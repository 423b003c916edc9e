package main

import (
	"context"
	"errors"
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
				return c.each(args, func(ref string) (string, error) {
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
	c.ValidArgsFunction = n.complete(0, containerNames)
	return c
}

// each does the same with every name, also after one for which it fails, prints the
// ids, and returns all errors.
func (c *client) each(refs []string, do func(ref string) (id string, err error)) error {
	ids, wrong := []string{}, []error{}
	for _, ref := range refs {
		id, err := do(ref)
		if err != nil {
			wrong = append(wrong, plain(err, c.settings.listen))
			continue
		}
		ids = append(ids, id)
	}
	return errors.Join(append(wrong, c.printIDs(ids))...)
}

// printIDs prints one a line, or for programs an object for each: {"id": ...}.
func (c *client) printIDs(ids []string) error {
	if c.format == "json" {
		type object struct {
			ID string `json:"id"`
		}
		list := []object{}
		for _, id := range ids {
			list = append(list, object{id})
		}
		return printJSON(list)
	}
	for _, id := range ids {
		fmt.Println(id)
	}
	return nil
}

func (c *client) stopContainer(ctx context.Context, ref string, grace time.Duration) (string, error) {
	x, err := c.container(ctx, ref)
	if err != nil {
		return "", err
	}
	_, err = c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: x.Id, Timeout: wholeSeconds(grace)})
	return x.Id, err
}

// wholeSeconds is a time as the CRI has it; what is less than a second is one, since
// none has another meaning.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (c *client) stopPod(ctx context.Context, ref string) (string, error) {
	p, err := c.pod(ctx, ref)
	if err != nil {
		return "", err
	}
	_, err = c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
	return p.Id, err
}
