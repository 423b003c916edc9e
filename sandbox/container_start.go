package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/waits"
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
	m.creates.claim("container/" + containerKey(c.PodID, c.Config.Of))
	if c.Bundle.Spec, err = m.Spec(c.ID); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.ID, err)
	}
	// A client that goes away ends nothing that was begun: its next call finds the
	// container running, and nobody takes it for one that cannot run. The runtime
	// bounds each step.
	at, ctx := atStage(&e.stage), waits.At(context.WithoutCancel(ctx), &e.stage.waits)
	at("start")
	defer at("")
	err = guarded(ctx, "start", func(ctx context.Context) error { return m.start(ctx, e, &c) })
	switch {
	case err == nil:
		m.exits.began(c.ID)
		m.disks.use(c.ID) // so that the first who asks is told
		m.spaces.ahead.Fill()
		return nil
	case errors.Is(err, errNotRecorded), keeper.Lost(err):
		// Nothing is wrong with the container: it is as before, for another try.
		return errors.Join(err, m.endUnrecorded(ctx, &c))
	}
	return errors.Join(err, m.kill(ctx, &c), m.startFailed(e, &c, err))
}

var errNotRecorded = fmt.Errorf("its start cannot be recorded: %w", ErrUnavailable)

// start makes the process and records it.
func (m *Manager) start(ctx context.Context, e *containerEntry, c *Container) error {
	started, err := m.cfg.Runtime.Start(ctx, c.Bundle)
	if errors.Is(err, keeper.ErrSpawnerLost) && starved(c) {
		return fmt.Errorf("cannot start container %s: its memory limit is %d bytes, and no process begins with less than %d", c.ID, *c.Bundle.Spec.Linux.Resources.Memory.Limit, leastMemory)
	}
	if err != nil {
		return err
	}
	running := *c
	running.Bundle.Spec = nil
	running.PID, running.PIDStart, running.BootID = started.PID, started.PIDStart, m.cfg.BootID
	running.StartedAt = notBefore(started.At, c.CreatedAt)
	err = m.fault("start: record")
	if err == nil {
		err = m.saveContainer(e, &running)
	}
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w: %w", c.ID, errNotRecorded, err)
	}
	return nil
}

// leastMemory is what the kernel takes for a small process, in bytes.
const leastMemory = 1 << 20

// starved says whether the kernel cannot but kill a container's first process. Until
// that executes, its memory is the spawner's, which is killed with it: neither
// memory.failcnt nor oom_kill of the group tells (mm/oom_kill.c).
func starved(c *Container) bool {
	r := c.Bundle.Spec.Linux.Resources
	return r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 && *r.Memory.Limit < leastMemory
}

// endUnrecorded ends the process of a start that counts as not begun: the keeper
// may have made it before it died, or the record could not be written. The group
// goes too, for Linux 6.18 kills at once what is cloned into one that was killed.
func (m *Manager) endUnrecorded(ctx context.Context, c *Container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	return m.cfg.Runtime.Delete(ctx, c.ID, m.cgroupOf(c))
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
