package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// batch runs n pod cycles, as many at a time as there are clients. All are up
// before the first goes down if there are several clients: ups is how long that took.
func (e *endpoint) batch(ctx context.Context, s settings, n, clients int) (ups time.Duration, err error) {
	if clients == 1 {
		began := time.Now()
		for range n {
			if err := e.cycle(ctx, s); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}
	var mu sync.Mutex
	var pods []*pod
	began := time.Now()
	err = parallel(n, clients, func() error {
		p, err := e.make(s)
		if err != nil {
			return err
		}
		mu.Lock()
		pods = append(pods, p)
		mu.Unlock()
		return e.quietly(func() error { return e.raise(ctx, s, p) })
	})
	ups = time.Since(began)
	return ups, e.lower(ctx, pods, err)
}

// parallel calls do n times, clients at a time, and returns the errors.
func parallel(n, clients int, do func() error) error {
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for range work {
				if errs[c] = do(); errs[c] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// A pod is one that the benchmark made.
type pod struct {
	config    *runtimeapi.PodSandboxConfig
	id        string
	container string
}

// cycle takes one pod up, runs commands in it, and takes it down.
func (e *endpoint) cycle(ctx context.Context, s settings) error {
	p, err := e.make(s)
	if err != nil {
		return err
	}
	defer os.RemoveAll(p.config.LogDirectory)
	if err := e.timed("pod up", func() error { return e.raise(ctx, s, p) }); err != nil {
		return err
	}
	for range s.execs {
		if err := e.timed("ExecSync true", func() error { return e.exec(ctx, p) }); err != nil {
			return errors.Join(err, e.down(ctx, p))
		}
	}
	return e.timed("pod down", func() error { return e.down(ctx, p) })
}

// make thinks of a pod.
func (e *endpoint) make(s settings) (*pod, error) {
	name := fmt.Sprintf("bench-%d", e.next())
	dir, err := os.MkdirTemp("", "cri-bench-")
	if err != nil {
		return nil, err
	}
	pid := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	return &pod{config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: fmt.Sprint(time.Now().UnixNano())},
		Hostname: name, LogDirectory: dir,
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: s.parent, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: pid}},
	}}, nil
}

// raise takes a pod up with a container as a kubelet has them: limits, seccomp,
// masked paths.
func (e *endpoint) raise(ctx context.Context, s settings, p *pod) error {
	err := e.timed("RunPodSandbox", func() error {
		r, err := e.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.config})
		p.id = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return err
	}
	c := containerConfig(s)
	err = e.timed("CreateContainer", func() error {
		r, err := e.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
		p.container = r.GetContainerId()
		return err
	})
	if err != nil {
		return err
	}
	return e.timed("StartContainer", func() error {
		_, err := e.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container})
		return err
	})
}

func containerConfig(s settings) *runtimeapi.ContainerConfig {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: s.image, UserSpecifiedImage: s.image},
		Command: []string{"sleep", "100000"}, LogPath: "c.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 102, MemoryLimitInBytes: 64 << 20},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:      []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
				ReadonlyPaths:    []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	if s.command != nil {
		c.Command = s.command
	}
	if s.unlimited {
		c.Linux.Resources = nil
	}
	return c
}

func (e *endpoint) exec(ctx context.Context, p *pod) error {
	r, err := e.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"true"}, Timeout: 30})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
	}
	return err
}

// down stops the container at once, stops the pod and removes it.
func (e *endpoint) down(ctx context.Context, p *pod) error {
	if p.id == "" {
		return nil
	}
	if p.container != "" {
		if _, err := e.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container}); err != nil {
			return err
		}
	}
	if _, err := e.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return err
	}
	_, err := e.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	return err
}
