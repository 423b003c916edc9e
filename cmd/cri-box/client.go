package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callBound is how long a command waits for one answer of the daemon.
const callBound = 2 * time.Minute

// A client speaks the CRI with the daemon, as the kubelet does.
type client struct {
	*node
	settings settings
	runtime  runtimeapi.RuntimeServiceClient
	images   runtimeapi.ImageServiceClient
	conn     *grpc.ClientConn
}

// withClient runs do with a connection. Its context ends with the bound, 0 for
// none, and with the first SIGINT or SIGTERM.
func (n *node) withClient(bound time.Duration, do func(ctx context.Context, c *client) error) error {
	s, err := n.settings()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+s.listen, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRequest), grpc.MaxCallSendMsgSize(maxRequest)))
	if err != nil {
		return fmt.Errorf("cannot dial %s: %w", s.listen, err)
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	return plain(do(ctx, &client{n, s, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn}), s.listen)
}

// plain takes gRPC's words from around the daemon's own, in each of several errors.
func plain(err error, socket string) error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		list := several.Unwrap()
		if err.Error() == errors.Join(list...).Error() { // not one that has others within its text
			var said []error
			for _, one := range list {
				said = append(said, plain(one, socket))
			}
			return errors.Join(said...)
		}
	}
	var rpc interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &rpc) {
		return err
	}
	text := rpc.GRPCStatus().Message()
	if strings.HasPrefix(text, "connection error:") {
		return unreachable(socket, errors.New(text))
	}
	return errors.New(text)
}

// unreachable says that nobody answers at a socket, and what would be right.
func unreachable(socket string, err error) error {
	right := "is cri-box serve running? see --state"
	if strings.Contains(err.Error(), unix.EACCES.Error()) { // of gRPC there is the text alone
		right = "you may not open it: use sudo"
	}
	return fmt.Errorf("cannot reach the daemon at %s (%s): %w", socket, right, err)
}

// pod finds a pod by id, the beginning of one, name, or namespace/name.
func (c *client) pod(ctx context.Context, ref string) (*runtimeapi.PodSandbox, error) {
	resp, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	return pick("pod", ref, resp.Items, func(p *runtimeapi.PodSandbox) entry {
		m := p.GetMetadata()
		return entry{p.Id, p.CreatedAt, []string{m.GetName(), m.GetNamespace() + "/" + m.GetName()}}
	})
}

// container finds a container by id, the beginning of one, name, or pod/name.
func (c *client) container(ctx context.Context, ref string) (*runtimeapi.Container, error) {
	pods, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	resp, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	names := podNames(pods.Items)
	return pick("container", ref, resp.Containers, func(x *runtimeapi.Container) entry {
		name := x.GetMetadata().GetName()
		return entry{x.Id, x.CreatedAt, []string{name, names[x.PodSandboxId] + "/" + name}}
	})
}

func podNames(pods []*runtimeapi.PodSandbox) map[string]string {
	names := map[string]string{}
	for _, p := range pods {
		names[p.Id] = p.GetMetadata().GetName()
	}
	return names
}

// An entry is what something can be called.
type entry struct {
	id      string
	created int64
	names   []string
}

// pick finds what ref means. Of several with one name it is the newest, as
// attempts of one container are; an id's beginning must mean one.
func pick[T any](kind, ref string, list []T, describe func(T) entry) (hit T, err error) {
	var named, begun []T
	for _, item := range list {
		e := describe(item)
		switch {
		case e.id == ref:
			return item, nil
		case slices.Contains(e.names, ref):
			named = append(named, item)
		case ref != "" && strings.HasPrefix(e.id, ref):
			begun = append(begun, item)
		}
	}
	switch {
	case len(named) > 0:
		return slices.MaxFunc(named, func(a, b T) int { return cmp.Compare(describe(a).created, describe(b).created) }), nil
	case len(begun) == 1:
		return begun[0], nil
	case len(begun) > 1:
		return hit, fmt.Errorf("cannot tell which %s is meant by %q: %d ids begin so", kind, ref, len(begun))
	}
	return hit, unknown{kind, ref}
}

// unknown is what nothing is called.
type unknown struct{ kind, ref string }

func (u unknown) Error() string {
	return fmt.Sprintf("there is no %s %q; `cri-box %s` lists them", u.kind, u.ref, map[string]string{"pod": "pods", "container": "ps -a"}[u.kind])
}
