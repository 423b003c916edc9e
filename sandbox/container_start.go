package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// codeStartError is the exit code of a container that could not be started.
const codeStartError = 128

// StartContainer runs a created container.
func (m *Manager) StartContainer(ctx context.Context, id string) error {
	e, err := m.containerEntry(id)
	if err != nil {
		return err
	}
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot start container %s: %w", id, err)
	}
	defer e.lock.release()
	c := *m.currentContainer(e)
	if c.State() != runtimeapi.ContainerState_CONTAINER_CREATED || !c.Made {
		return fmt.Errorf("cannot start container %s: it is %s: %w", c.ID, stateName(c.State()), ErrState)
	}
	if err := m.mayStart(&c); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.ID, err)
	}
	if c.Bundle.Spec, err = m.Spec(c.ID); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.ID, err)
	}
	atStage(&e.stage)("start")
	defer e.stage.Store(nil)
	started, err := m.cfg.Runtime.Start(ctx, c.Bundle)
	if err != nil {
		return errors.Join(err, m.startFailed(e, &c, err))
	}
	c.PID, c.PIDStart, c.BootID = started.PID, started.PIDStart, m.cfg.BootID
	c.StartedAt = notBefore(started.At, c.CreatedAt)
	if err := m.saveContainer(e, &c); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.ID, err)
	}
	m.exits.began(c.ID)
	return nil
}

// mayStart refuses in a pod that goes down.
func (m *Manager) mayStart(c *Container) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[c.PodID]
	if p == nil || p.stopping || !p.pod.Ready() {
		return fmt.Errorf("pod %s is not ready: %w", c.PodID, ErrState)
	}
	return nil
}

// startFailed records a container that the kernel or its image would not let
// run: it has exited, and its message names the step.
func (m *Manager) startFailed(e *containerEntry, c *Container, why error) error {
	now := notBefore(time.Now(), c.CreatedAt)
	c.StartedAt = now
	c.End = &End{At: now, Code: codeStartError, Reason: ReasonStartError, Message: why.Error()}
	if err := m.saveContainer(e, c); err != nil {
		return err
	}
	m.ended(e)
	return nil
}

func notBefore(t, limit time.Time) time.Time {
	if t.Before(limit) {
		return limit
	}
	return t
}

func stateName(s runtimeapi.ContainerState) string {
	return map[runtimeapi.ContainerState]string{
		runtimeapi.ContainerState_CONTAINER_CREATED: "created", runtimeapi.ContainerState_CONTAINER_RUNNING: "running",
		runtimeapi.ContainerState_CONTAINER_EXITED: "exited"}[s]
}
