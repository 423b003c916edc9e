package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainer changes limits of a container that was made or runs: all that
// the request sets, or none. What it leaves out stays as it is.
func (m *Manager) UpdateContainer(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) error {
	e, err := m.containerEntry(r.GetContainerId())
	if err != nil {
		return err
	}
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot update container %s: %w", r.GetContainerId(), err)
	}
	defer e.lock.release()
	c := m.currentContainer(e)
	if c.State() == runtimeapi.ContainerState_CONTAINER_EXITED || !c.Made {
		return fmt.Errorf("cannot update container %s: it is %s: %w", c.ID, stateName(c.State()), ErrState)
	}
	from, err := m.Spec(c.ID)
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.ID, err)
	}
	now := proto.Clone(r).(*runtimeapi.UpdateContainerResourcesRequest)
	now.ContainerId = c.ID
	now.Linux = spec.MergeResources(c.Resources(), r.GetLinux())
	to, err := spec.Update(from, now.Linux, m.cfg.Host)
	if err != nil {
		return err
	}
	undo, err := m.cfg.Cgroups.Update(ctx, c.ID, m.cgroupOf(c), from, to)
	if errors.Is(err, fs.ErrNotExist) && c.StartedAt.IsZero() {
		// Made by an earlier daemon: the start makes the group, by the spec.
		undo, err = func(context.Context) error { return nil }, nil
	}
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.ID, err)
	}
	if err := m.saveUpdate(e, to, now); err != nil {
		return errors.Join(fmt.Errorf("cannot update container %s: %w", c.ID, err),
			m.saveSpec(c.ID, from), undo(context.WithoutCancel(ctx)))
	}
	return nil
}

func (m *Manager) saveUpdate(e *containerEntry, s *specs.Spec, now *runtimeapi.UpdateContainerResourcesRequest) error {
	if err := m.saveSpec(now.GetContainerId(), s); err != nil {
		return err
	}
	err := m.changeContainer(e, func(c *Container) {
		c.Updated = &Message[*runtimeapi.UpdateContainerResourcesRequest]{now}
	})
	if err == nil {
		e.spec.Store(s)
	}
	return err
}

// UpdatePod records what the kubelet says a pod's limits are: it has set them
// itself, on the group that it made.
func (m *Manager) UpdatePod(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	e, err := m.podEntry(r.GetPodSandboxId())
	if err != nil {
		return err
	}
	if err := spec.CheckPodResources(r); err != nil {
		return err
	}
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot update pod %s: %w", r.GetPodSandboxId(), err)
	}
	defer e.lock.release()
	p := *m.currentPod(e)
	if !p.Ready() {
		return fmt.Errorf("cannot update pod %s: it is not ready: %w", p.ID, ErrState)
	}
	p.Updated = &Message[*runtimeapi.UpdatePodSandboxResourcesRequest]{r}
	return m.savePod(e, &p)
}

// changeContainer writes and publishes the container with a change that may
// come at the same time as another one.
func (m *Manager) changeContainer(e *containerEntry, change func(*Container)) error {
	e.saveMu.Lock()
	defer e.saveMu.Unlock()
	c := *m.currentContainer(e)
	change(&c)
	return m.saveContainer(e, &c)
}
