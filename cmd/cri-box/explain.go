package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
)

func explainCommand(n *node) *cobra.Command {
	return &cobra.Command{
		Use:   "explain CONTAINER",
		Short: "Show the system calls that made a container",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.explain(ctx, args[0]) })
		},
	}
}

func (c *client) explain(ctx context.Context, ref string) error {
	x, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	body, err := ask(ctx, c.settings.state, http.MethodGet, "/containers/"+x.Id+"/calls")
	if err != nil {
		return fmt.Errorf("cannot explain %s: %w", ref, err)
	}
	defer body.Close()
	_, err = io.Copy(os.Stdout, body)
	return err
}
