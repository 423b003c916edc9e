package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type logOptions struct {
	follow, times, json bool
	tail                int // lines, negative: all
}

func logsCommand(n *node) *cobra.Command {
	var o logOptions
	c := &cobra.Command{
		Use:   "logs CONTAINER",
		Short: "Print a container's log, standard error to ours",
		Args:  cobra.ExactArgs(1),
		Long: "Print a container's log, standard error to ours. With -o json each line, of both,\n" +
			"is an object on standard output.",
		RunE: func(_ *cobra.Command, args []string) error {
			o.json = n.format == "json"
			return n.withClient(0, func(ctx context.Context, c *client) error { return c.logs(ctx, args[0], o) })
		},
	}
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until the container ends")
	c.Flags().BoolVar(&o.times, "timestamps", false, "begin each line with its time")
	c.Flags().IntVar(&o.tail, "tail", -1, "begin with the last `lines`")
	c.ValidArgsFunction = n.complete(1, containerNames)
	return c
}

func (c *client) logs(ctx context.Context, ref string, o logOptions) error {
	x, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	resp, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: x.Id})
	if err != nil {
		return err
	}
	path := resp.GetStatus().GetLogPath()
	if path == "" {
		return fmt.Errorf("container %s has no log: whoever made it asked for none", short(x.Id))
	}
	f, err := openLog(path, o)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.skip(o.tail); err != nil {
		return err
	}
	if !o.follow {
		_, err := f.copy(os.Stdout, os.Stderr)
		return err
	}
	end, err := c.watchEnd(ctx, x.Id)
	if err != nil {
		return err
	}
	return f.follow(ctx, end)
}

// watchEnd returns a channel that is closed when the container has ended, or can
// be waited for no longer.
func (c *client) watchEnd(ctx context.Context, id string) (<-chan struct{}, error) {
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return nil, err
	}
	if _, err := stream.Header(); err != nil { // from now on nothing is missed
		return nil, err
	}
	resp, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, err
	}
	end := make(chan struct{})
	if resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
		close(end)
		return end, nil
	}
	go func() {
		defer close(end)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			ended := e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT || e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
			if ended && e.ContainerId == id {
				return
			}
		}
	}()
	return end, nil
}
