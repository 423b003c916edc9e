package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// completeBound is how long a shell waits for names before it offers none.
const completeBound = time.Second

type completion = func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective)

// complete offers what list has; only is for how many arguments, 0 for all.
func (n *node) complete(only int, list func(ctx context.Context, c *client) ([]string, error)) completion {
	return func(_ *cobra.Command, args []string, begin string) (names []string, _ cobra.ShellCompDirective) {
		if only > 0 && len(args) >= only {
			return nil, cobra.ShellCompDirectiveDefault
		}
		err := n.withClient(completeBound, func(ctx context.Context, c *client) error {
			all, err := list(ctx, c)
			for _, name := range all {
				if strings.HasPrefix(name, begin) && visible(name) == name { // names are strangers'
					names = append(names, name)
				}
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func containerNames(ctx context.Context, c *client) (names []string, err error) {
	resp, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	for _, x := range resp.GetContainers() {
		names = append(names, x.GetMetadata().GetName())
	}
	return names, err
}

func podRefs(ctx context.Context, c *client) (names []string, err error) {
	resp, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	for _, p := range resp.GetItems() {
		names = append(names, p.GetMetadata().GetName())
	}
	return names, err
}

func imageRefs(ctx context.Context, c *client) (names []string, err error) {
	resp, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	for _, i := range resp.GetImages() {
		names = append(names, i.RepoTags...)
	}
	return names, err
}
