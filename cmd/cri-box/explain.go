package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/cmd/cri-box/explain"
	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type explainOptions struct{ calls, time, shell bool }

func explainCommand(n *node) *cobra.Command {
	var o explainOptions
	c := &cobra.Command{
		Use:   "explain POD|CONTAINER",
		Short: "Show what a pod is made of, or how a container was made",
		Long: "Show a pod as the kernel has it: namespaces shared and own, processes, control\n" +
			"groups with limits and use, mounts, addresses, routes, ports, capabilities and\n" +
			"seccomp. -o svg draws a picture, -o json is for programs. --calls shows the system\n" +
			"calls that made a container, each with what it is for; --shell a script that makes\n" +
			"one like it by hand; --time how long each step of a pod's and its containers'\n" +
			"making took.",
		Example: "  cri-box explain web\n  cri-box explain web -o svg > web.svg\n  cri-box explain --calls web/nginx",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.explain(ctx, args[0], o) })
		},
	}
	c.Flags().BoolVar(&o.calls, "calls", false, "the program of system calls that made the container")
	c.Flags().BoolVar(&o.shell, "shell", false, "a script that makes the container by hand: unshare, mount, ip, nft, capsh")
	c.Flags().BoolVar(&o.time, "time", false, "each step of the making with its time")
	c.ValidArgsFunction = n.complete(1, containerNames)
	return c
}

func (c *client) explain(ctx context.Context, ref string, o explainOptions) error {
	if (o.calls || o.shell) && c.format != "table" || o.time && c.format == "svg" {
		return fmt.Errorf("cannot show that as %s: --calls and --shell print text, --time prints text or json", c.format)
	}
	if o.calls || o.shell {
		id, err := c.oneContainer(ctx, ref)
		if err != nil {
			return err
		}
		if o.shell {
			return c.explainShell(ctx, id)
		}
		return c.explainCalls(ctx, id)
	}
	pod, err := c.podOrContainers(ctx, ref)
	if err != nil {
		return err
	}
	if o.time {
		return c.explainTimes(ctx, pod)
	}
	facts, err := c.facts(ctx, pod)
	if err != nil {
		return err
	}
	facts.Complete()
	switch c.format {
	case "json":
		return printJSON(facts)
	case "svg":
		return facts.SVG(os.Stdout)
	}
	return facts.Text(printable{os.Stdout})
}

// printable takes from what strangers named what a terminal would obey.
type printable struct{ w io.Writer }

func (p printable) Write(b []byte) (int, error) {
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = visible(lines[i])
	}
	_, err := io.WriteString(p.w, strings.Join(lines, "\n"))
	return len(b), err
}

// podOrContainers finds a pod, or the one that a container is in.
func (c *client) podOrContainers(ctx context.Context, ref string) (string, error) {
	pod, err := c.pod(ctx, ref)
	if err == nil {
		return pod.Id, nil
	}
	x, ctrErr := c.container(ctx, ref)
	if u := (unknown{}); errors.As(err, &u) && errors.As(ctrErr, &u) {
		return "", fmt.Errorf("there is no pod and no container %q: if it could not be made, `cri-box why %s` says why; `cri-box pods` and `cri-box ps -a` list what there is", ref, ref)
	}
	if ctrErr != nil {
		return "", errors.Join(err, ctrErr)
	}
	return x.PodSandboxId, nil
}

// oneContainer finds a container, or that of a pod with one.
func (c *client) oneContainer(ctx context.Context, ref string) (string, error) {
	x, err := c.container(ctx, ref)
	if err == nil {
		return x.Id, nil
	}
	pod, podErr := c.pod(ctx, ref)
	if podErr != nil {
		return "", err
	}
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod.Id}})
	if err != nil {
		return "", err
	}
	if len(list.Containers) != 1 {
		return "", fmt.Errorf("pod %s has %d containers: name one, as %s/NAME", ref, len(list.Containers), ref)
	}
	return list.Containers[0].Id, nil
}

// explainCalls prints the program that made a container.
func (c *client) explainCalls(ctx context.Context, id string) error {
	body, err := ask(ctx, c.settings.state, http.MethodGet, "/containers/"+id+"/calls")
	if err != nil {
		return fmt.Errorf("cannot explain %s: %w", id, err)
	}
	defer body.Close()
	_, err = io.Copy(os.Stdout, body)
	return err
}

// facts asks the daemon what there is; the kernel says the rest.
func (c *client) facts(ctx context.Context, podID string) (*explain.Facts, error) {
	resp, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID, Verbose: true})
	if err != nil {
		return nil, err
	}
	f := &explain.Facts{Pod: podFacts(resp)}
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: podID}})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list.Containers, func(a, b *runtimeapi.Container) int { return int(a.CreatedAt - b.CreatedAt) })
	for _, x := range list.Containers {
		one, err := c.containerFacts(ctx, x.Id)
		if err != nil {
			return nil, err
		}
		f.Containers = append(f.Containers, one)
	}
	return f, nil
}
