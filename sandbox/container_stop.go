package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/waits"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killWait bounds the wait for a killed container: longer means that a process
// in it cannot die (D state).
const killWait = 30 * time.Second

// StopContainer sends the stop signal, waits grace, and kills. Grace 0 kills at
// once; of several stops under way the earliest end counts. It is idempotent,
// also for a container that is not there.
func (m *Manager) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	e, err := m.containerEntry(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// A start under way decides first whether there is something to stop.
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot stop container %s: %s: %w", id, e.heldBy(), err)
	}
	c := m.currentContainer(e)
	e.lock.release()
	if c.State() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	if err := m.beginStop(ctx, e, c, grace); err != nil {
		return fmt.Errorf("cannot stop container %s: %w", c.ID, err)
	}
	return m.awaitStop(ctx, e, c, grace)
}

// heldBy says who has the container's lock: only who makes or starts it tells its stage.
func (e *containerEntry) heldBy() string {
	if s := e.stage.Load(); s != nil {
		return fmt.Sprintf("another call is at %q", s.Name)
	}
	return "another call changes it"
}

// beginStop signals once and sets when the container is killed.
func (m *Manager) beginStop(ctx context.Context, e *containerEntry, c *Container, grace time.Duration) error {
	if grace <= 0 {
		return m.kill(ctx, c)
	}
	e.stopMu.Lock()
	defer e.stopMu.Unlock()
	deadline := time.Now().Add(grace)
	switch {
	case !time.Now().Before(e.deadline): // none yet, or its kill has not ended the container
		if err := m.signal(c, unix.Signal(c.Stop.Number)); err != nil {
			return err
		}
		e.timer = time.AfterFunc(grace, func() { m.killLate(c) })
	case deadline.Before(e.deadline):
		e.timer.Reset(grace)
	default:
		return nil
	}
	e.deadline = deadline
	return nil
}

// kill ends all processes of the container.
func (m *Manager) kill(ctx context.Context, c *Container) error {
	return m.cfg.Cgroups.Kill(ctx, c.ID, m.cgroupOf(c))
}

func (m *Manager) killLate(c *Container) {
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	if err := m.kill(ctx, c); err != nil {
		logger(c.ID).Error("cannot kill container after its grace", "err", err)
	}
}

// signal sends a signal to the container's first process, if it still lives.
func (m *Manager) signal(c *Container, sig unix.Signal) error {
	pidfd, err := m.cfg.Custody.FD(c.ID, keeper.FDPid)
	if err != nil {
		return nil // it has ended, and its exit is being recorded
	}
	defer pidfd.Close()
	err = unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot send signal %d: %w", sig, err)
	}
	return nil
}

func (m *Manager) awaitStop(ctx context.Context, e *containerEntry, c *Container, grace time.Duration) error {
	defer waits.For(ctx, fmt.Sprintf("process %d of container %s to end", c.PID, c.ID),
		fmt.Sprintf("if it was killed and stays, it hangs in the kernel: /proc/%d/stack says where; see to the file system that it uses", c.PID))()
	timer := time.NewTimer(max(grace, 0) + killWait)
	defer timer.Stop()
	select {
	case <-e.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot stop container %s: it has not ended yet: %w", c.ID, context.Cause(ctx))
	case <-timer.C:
		return fmt.Errorf("cannot stop container %s: killed, but process %d has not ended within %v; it hangs in the kernel (see /proc/%d/stack): %w",
			c.ID, c.PID, killWait, c.PID, ErrUnavailable)
	}
}

// RemoveContainer kills the container if it runs and removes what it has. It is
// idempotent, also for a container that is not there.
func (m *Manager) RemoveContainer(ctx context.Context, id string) error {
	if err := m.StopContainer(ctx, id, 0); err != nil {
		return err
	}
	e, err := m.containerEntry(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", id, err)
	}
	defer e.lock.release()
	c := m.currentContainer(e)
	if err := m.removeContainer(ctx, c); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.ID, err)
	}
	m.exits.forget(c.ID)
	m.forgetContainer(c)
	m.ended(e) // one that was started since is gone too, and nobody records its end
	return nil
}

// removeContainer undoes the steps that made the container.
func (m *Manager) removeContainer(ctx context.Context, c *Container) error {
	pod := &Pod{ID: c.PodID, CgroupParent: m.ownCgroup(c.PodID)}
	if p, err := m.Pod(c.PodID); err == nil {
		pod = p
	}
	n := &newContainer{Manager: m, pod: pod, ctr: *c}
	return undo(ctx, n.steps())
}
