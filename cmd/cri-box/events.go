package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func eventsCommand(n *node) *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Print what happens to pods and containers, until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return n.withClient(0, func(ctx context.Context, c *client) error { return c.events(ctx) })
		},
	}
}

func (c *client) events(ctx context.Context) error {
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.printEvent(e); err != nil {
			return err
		}
	}
}

func (c *client) printEvent(e *runtimeapi.ContainerEventResponse) error {
	if c.format == "json" {
		b, err := protojson.Marshal(e) // one line each: a stream has no end bracket
		if err != nil {
			return err
		}
		_, err = fmt.Println(string(b))
		return err
	}
	kind := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
	_, err := fmt.Printf("%s  %-8s %s  %s\n", time.Unix(0, e.CreatedAt).Format(time.RFC3339Nano), kind, short(e.ContainerId), visible(eventName(e)))
	return err
}

// eventName is pod, or pod/container: an event's id may be that of either.
func eventName(e *runtimeapi.ContainerEventResponse) string {
	pod := e.GetPodSandboxStatus().GetMetadata().GetName()
	for _, s := range e.GetContainersStatuses() {
		if s.Id == e.ContainerId {
			return pod + "/" + s.GetMetadata().GetName()
		}
	}
	return pod
}
