package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Pod is a pod that the test made.
type Pod struct {
	*Instance
	ID     string
	Config *runtimeapi.PodSandboxConfig
}

// A PodOption changes a pod's configuration before it is made.
type PodOption func(*runtimeapi.PodSandboxConfig)

// A ContainerOption changes a container's configuration before it is made.
type ContainerOption func(*runtimeapi.ContainerConfig)

// PodConfig returns the configuration of a plain pod with a name of its own:
// network, IPC and UTS namespaces for the pod, a PID namespace for each container.
func (i *Instance) PodConfig(opts ...PodOption) *runtimeapi.PodSandboxConfig {
	i.pods++
	name := fmt.Sprintf("pod-%d", i.pods)
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname:     name,
		LogDirectory: filepath.Join(i.Dir, "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	for _, opt := range opts {
		opt(config)
	}
	return config
}

// RunPod makes a pod.
func (i *Instance) RunPod(opts ...PodOption) *Pod {
	i.T.Helper()
	pod, err := i.TryRunPod(i.PodConfig(opts...))
	if err != nil {
		i.T.Fatalf("cannot run the pod: %v\n%s", err, i.logTail())
	}
	return pod
}

// TryRunPod makes a pod of exactly this configuration, or says why not.
func (i *Instance) TryRunPod(config *runtimeapi.PodSandboxConfig) (*Pod, error) {
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil { // as the kubelet does
		return nil, err
	}
	resp, err := i.Runtime.RunPodSandbox(i.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, err
	}
	i.ids = append(i.ids, resp.PodSandboxId)
	return &Pod{i, resp.PodSandboxId, config}, nil
}

// Status returns the pod's status.
func (p *Pod) Status() *runtimeapi.PodSandboxStatus {
	p.T.Helper()
	resp, err := p.Runtime.PodSandboxStatus(p.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.T.Fatalf("cannot ask for the pod's status: %v", err)
	}
	return resp.Status
}

// Stop stops the pod.
func (p *Pod) Stop() {
	p.T.Helper()
	if _, err := p.Runtime.StopPodSandbox(p.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.T.Fatalf("cannot stop the pod: %v\n%s", err, p.logTail())
	}
}

// Remove removes the pod.
func (p *Pod) Remove() {
	p.T.Helper()
	if _, err := p.Runtime.RemovePodSandbox(p.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.T.Fatalf("cannot remove the pod: %v\n%s", err, p.logTail())
	}
}

// A Container is a container that the test made.
type Container struct {
	*Pod
	ID     string
	Config *runtimeapi.ContainerConfig
}

// ContainerConfig returns the configuration of a container of that image with
// that command.
func (p *Pod) ContainerConfig(name, image string, command []string, opts ...ContainerOption) *runtimeapi.ContainerConfig {
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: p.Config.Linux.SecurityContext.NamespaceOptions,
		}},
	}
	for _, opt := range opts {
		opt(config)
	}
	return config
}

// Create makes a container in the pod.
func (p *Pod) Create(name, image string, command []string, opts ...ContainerOption) *Container {
	p.T.Helper()
	c, err := p.TryCreate(p.ContainerConfig(name, image, command, opts...))
	if err != nil {
		p.T.Fatalf("cannot create the container: %v\n%s", err, p.logTail())
	}
	return c
}

// TryCreate makes a container of exactly this configuration, or says why not.
func (p *Pod) TryCreate(config *runtimeapi.ContainerConfig) (*Container, error) {
	resp, err := p.Runtime.CreateContainer(p.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config,
	})
	if err != nil {
		return nil, err
	}
	p.ids = append(p.ids, resp.ContainerId)
	return &Container{p, resp.ContainerId, config}, nil
}

// Run creates and starts a container.
func (p *Pod) Run(name, image string, command []string, opts ...ContainerOption) *Container {
	p.T.Helper()
	c := p.Create(name, image, command, opts...)
	c.Start()
	return c
}

// TryStart starts the container.
func (c *Container) TryStart() error {
	_, err := c.Runtime.StartContainer(c.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ID})
	return err
}

// Start starts the container.
func (c *Container) Start() {
	c.T.Helper()
	if err := c.TryStart(); err != nil {
		c.T.Fatalf("cannot start the container: %v\n%s", err, c.logTail())
	}
}

// Stop stops the container with that grace in seconds.
func (c *Container) Stop(grace int64) {
	c.T.Helper()
	if _, err := c.Runtime.StopContainer(c.Context(), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: grace}); err != nil {
		c.T.Fatalf("cannot stop the container: %v\n%s", err, c.logTail())
	}
}

// Remove removes the container.
func (c *Container) Remove() {
	c.T.Helper()
	if _, err := c.Runtime.RemoveContainer(c.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		c.T.Fatalf("cannot remove the container: %v\n%s", err, c.logTail())
	}
}

// Status returns the container's status.
func (c *Container) Status() *runtimeapi.ContainerStatus {
	c.T.Helper()
	resp, err := c.Runtime.ContainerStatus(c.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		c.T.Fatalf("cannot ask for the container's status: %v\n%s", err, c.logTail())
	}
	return resp.Status
}

// PID returns the process that the container began with, from what crictl
// inspect shows.
func (c *Container) PID() int {
	c.T.Helper()
	resp, err := c.Runtime.ContainerStatus(c.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		c.T.Fatalf("cannot ask for the container's status: %v", err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil || info.PID <= 0 {
		c.T.Fatalf("the verbose status tells no pid: %v %q", err, resp.Info["info"])
	}
	return info.PID
}

// WaitExit returns the status once the container has exited.
func (c *Container) WaitExit() *runtimeapi.ContainerStatus {
	c.T.Helper()
	var status *runtimeapi.ContainerStatus
	c.Wait("the end of container "+c.Config.Metadata.Name, func() bool {
		status = c.Status()
		return status.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return status
}

// An ExecResult is what a command in a container gave.
type ExecResult struct {
	Stdout, Stderr string
	Code           int32
}

// Exec runs a command in the container; timeout 0 means none.
func (c *Container) Exec(timeout time.Duration, command ...string) (ExecResult, error) {
	resp, err := c.Runtime.ExecSync(c.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: c.ID, Cmd: command, Timeout: int64(timeout / time.Second),
	})
	if err != nil {
		return ExecResult{}, err
	}
	return ExecResult{string(resp.Stdout), string(resp.Stderr), resp.ExitCode}, nil
}

// MustExec runs a command that has to succeed, and returns its output.
func (c *Container) MustExec(command ...string) string {
	c.T.Helper()
	r, err := c.Exec(0, command...)
	if err != nil || r.Code != 0 {
		c.T.Fatalf("exec %q: code %d, %v\nstdout %q\nstderr %q", command, r.Code, err, r.Stdout, r.Stderr)
	}
	return r.Stdout
}
