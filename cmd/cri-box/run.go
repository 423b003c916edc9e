package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What `cri-box run` makes is known by its namespace and this label.
const (
	runNamespace = "cri-box-run"
	runLabel     = "cri-box/run"
	// runOnce has another value for each run: RunPodSandbox gives whoever asks for
	// the same pod again the one that is there, which is another run's.
	runOnce = "cri-box/once"
)

// stopGrace is how long a container has to end after an interrupt.
const stopGrace = 10 * time.Second

type runOptions struct {
	image                string
	command              []string
	name, user, workdir  string
	namespaces           runNamespaces
	limits               runLimits
	stdin, tty           bool
	ports, volumes, vars []string
	remove, detach       bool
	privileged           bool
}

// runLimits are "" and 0 for none.
type runLimits struct {
	memory string
	cpus   float64
}

type runNamespaces struct {
	network, pid string
	users        bool
}

func runCommand(n *node) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARGUMENT...]]",
		Short: "Run a container in a pod of its own",
		Long: "Run a container in a pod of its own, over the same socket as the kubelet. The\n" +
			"image is pulled if it is not here. Without --detach the log is printed until\n" +
			"the container ends, and its exit code becomes ours; an interrupt stops it.\n" +
			"On a node with a kubelet, that removes pods it does not know.",
		Example: "  cri-box run --rm -p 8080:80 nginx\n  cri-box run --memory 64MiB -v /srv:/data:ro -e A=1 busybox sh -c 'ls /data'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.image, o.command = args[0], args[1:]
			return n.withClient(0, func(ctx context.Context, c *client) error { return c.run(ctx, &o) })
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // the command has flags of its own
	f.StringVar(&o.name, "name", "", "`name` of pod and container (default made from the image's)")
	f.StringArrayVarP(&o.ports, "publish", "p", nil, "host port to container port, as `[IP:]HOST:CONTAINER[/udp]`")
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "directory or file of the host, as `SOURCE:TARGET[:ro]`")
	f.StringArrayVarP(&o.vars, "env", "e", nil, "variable, as `NAME=VALUE`, or NAME for ours")
	f.StringVar(&o.limits.memory, "memory", "", "limit, such as 64MiB")
	f.Float64Var(&o.limits.cpus, "cpus", 0, "limit in processors, such as 0.5")
	f.StringVarP(&o.user, "user", "u", "", "`user[:group]`, names of the image or numbers; a group needs a number for the user")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working `directory`")
	f.StringVar(&o.namespaces.network, "network", "pod", "pod or host")
	f.StringVar(&o.namespaces.pid, "pid", "container", "container or host")
	f.BoolVar(&o.namespaces.users, "userns", false, "user namespace: root in the container is nobody on the host")
	f.BoolVar(&o.privileged, "privileged", false, "all capabilities and devices")
	f.BoolVarP(&o.stdin, "interactive", "i", false, "our standard input is the container's")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal of its own")
	f.BoolVar(&o.remove, "rm", false, "remove it once it has ended")
	f.BoolVarP(&o.detach, "detach", "d", false, "print the container's id and leave it running")
	return c
}

// run makes pod and container, and unless it is detached stays until the end.
func (c *client) run(ctx context.Context, o *runOptions) (err error) {
	if o.detach && (o.remove || o.stdin || o.tty) {
		return errors.New("cannot --detach with --rm, -i or -t: nobody would be there for it")
	}
	if o.name == "" {
		o.name = defaultName(o.image)
	}
	pod, container, err := o.configs(filepath.Join(c.settings.root, "run", o.name))
	if err != nil {
		return err
	}
	if err := c.need(ctx, o.image, runNamespace+"/"+o.name); err != nil {
		return err
	}
	podID, id, err := c.start(ctx, pod, container)
	if err != nil {
		return errors.Join(err, c.dropPod(context.WithoutCancel(ctx), podID))
	}
	if o.detach {
		return c.printIDs([]string{id})
	}
	code, err := c.stay(ctx, id, o)
	if o.remove {
		err = errors.Join(err, c.dropPod(context.WithoutCancel(ctx), podID))
	}
	if err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

// defaultName is the last word of the image's name, with something that no other has.
func defaultName(image string) string {
	name, _, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], "@")
	name, _, _ = strings.Cut(name, ":")
	return name + "-" + strings.ToLower(rand.Text()[:6])
}

// need pulls the image for a pod if the node does not have it.
func (c *client) need(ctx context.Context, image, pod string) error {
	resp, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil || resp.Image != nil {
		return err
	}
	_, err = c.pull(ctx, image, pod)
	return err
}

func (c *client) start(ctx context.Context, pod *runtimeapi.PodSandboxConfig, container *runtimeapi.ContainerConfig) (podID, id string, err error) {
	if err := os.MkdirAll(pod.LogDirectory, 0o755); err != nil {
		return "", "", fmt.Errorf("cannot make log directory: %w", err)
	}
	up, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if status.Code(err) == codes.AlreadyExists {
		name := pod.Metadata.Name
		return "", "", fmt.Errorf("cannot run %q: there is a pod of that name; `cri-box rm --force --pod %s/%s` removes it", name, runNamespace, name)
	}
	if err != nil && ctx.Err() != nil {
		id, err := c.abandoned(ctx, pod)
		return id, "", errors.Join(fmt.Errorf("interrupted while the pod of %q was made", pod.Metadata.Name), err)
	}
	if err != nil {
		return "", "", errors.Join(err, dropLogs(c.settings.root, pod.Metadata.Name))
	}
	made, err := c.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: up.PodSandboxId, Config: container, SandboxConfig: pod})
	if err != nil {
		return up.PodSandboxId, "", err
	}
	_, err = c.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
	return up.PodSandboxId, made.ContainerId, err
}

// abandoned returns the id of a pod that we do not want any more, for its removal:
// the daemon goes on making it, and whoever asks for the same gets the same.
func (c *client) abandoned(ctx context.Context, pod *runtimeapi.PodSandboxConfig) (string, error) {
	fmt.Fprintln(os.Stderr, "cri-box: removing the pod once it is made")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callBound)
	defer cancel()
	up, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return "", errors.Join(plain(err, c.settings.listen), dropLogs(c.settings.root, pod.Metadata.Name))
	}
	return up.PodSandboxId, nil
}

// stay prints what the container writes until it ends, stops it when we are
// interrupted, and returns its exit code. The pod's network ends with it.
func (c *client) stay(ctx context.Context, id string, o *runOptions) (int32, error) {
	always := context.WithoutCancel(ctx)
	watching, giveUp := context.WithCancel(always) // also while it is being stopped
	defer giveUp()
	stopped := make(chan error, 1)
	undisturbed := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "cri-box: stopping it")
		_, err := c.stopContainer(always, id, stopGrace)
		if err != nil {
			giveUp()
		}
		stopped <- err
	})
	followed := c.watch(watching, id, o)
	if undisturbed() {
		if followed != nil {
			return 0, followed
		}
	} else if err := <-stopped; err != nil {
		return 0, err
	}
	resp, err := c.runtime.ContainerStatus(always, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return 0, err
	}
	s := resp.Status
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		return 0, errors.New("the daemon went away; the container may still run: `cri-box ps`")
	}
	if s.Reason != "Completed" && s.Reason != "Error" {
		fmt.Fprintf(os.Stderr, "cri-box: the container ended: %s: %s\n", s.Reason, visible(s.Message))
	}
	x, err := c.container(always, id)
	if err == nil {
		_, err = c.runtime.StopPodSandbox(always, &runtimeapi.StopPodSandboxRequest{PodSandboxId: x.PodSandboxId})
	}
	return s.ExitCode, err
}

// watch joins our streams to the container's until it ends. What it writes comes
// from its log, which has all of it from the begin on; a terminal's from the
// container itself, since half a line is no line of a log.
func (c *client) watch(ctx context.Context, id string, o *runOptions) error {
	var link string
	if o.stdin || o.tty {
		resp, err := c.runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: o.stdin, Stdout: o.tty, Tty: o.tty})
		if err != nil && status.Code(err) != codes.FailedPrecondition { // it has ended already: only the log is left
			return err
		}
		link = resp.GetUrl()
	}
	if link != "" && o.tty {
		end, err := c.watchEnd(ctx, id)
		if err != nil {
			return err
		}
		if _, err := c.stream(ctx, link, streams{stdin: o.stdin, output: true, tty: true}); err != nil {
			return err
		}
		select {
		case <-end:
		case <-ctx.Done():
		}
		return nil
	}
	if link != "" {
		go c.stream(ctx, link, streams{stdin: true}) // ends with the container, or us
	}
	return c.logs(ctx, id, logOptions{follow: true, tail: -1})
}

// dropPod stops and removes a pod with all in it, and the logs of one that `run`
// made. An empty id is none.
func (c *client) dropPod(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	resp, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return err
	}
	if _, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	if _, err := c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	if m := resp.GetStatus().GetMetadata(); m.GetNamespace() == runNamespace {
		return dropLogs(c.settings.root, m.GetName())
	}
	return nil
}

// dropLogs removes <root>/run/<name>, and run when it is empty.
func dropLogs(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot remove logs: %w", err)
	}
	defer root.Close()
	if err := root.RemoveAll(filepath.Join("run", name)); err != nil {
		return fmt.Errorf("cannot remove logs: %w", err)
	}
	root.Remove("run") // fails as long as there are others
	return nil
}
