package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/waits"
)

// StopPod kills the pod's containers and takes its network and namespaces away.
// It is idempotent, also for a pod that is not there.
func (m *Manager) StopPod(ctx context.Context, id string) error {
	e, err := m.podEntry(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	e.stopping = true // from here on nothing new begins in it
	m.mu.Unlock()
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot stop pod %s: another stop is at %q: %w", id, e.stageName(), err)
	}
	defer e.lock.release()
	return m.stopLocked(ctx, e)
}

func (e *podEntry) stageName() string {
	if s := e.stage.Load(); s != nil {
		return s.Name
	}
	return ""
}

func (m *Manager) stopLocked(ctx context.Context, e *podEntry) error {
	p := m.recordStopping(e)
	if !p.StoppedAt.IsZero() {
		return nil
	}
	at, ctx := atStage(&e.stage), waits.At(ctx, &e.stage.waits)
	defer at("")
	for _, s := range m.faulty("stop pod", []step{
		{"kill containers", func(ctx context.Context) error { return m.killAll(ctx, p.ID) }, nil},
		{"take down", func(ctx context.Context) error { return m.takeDown(ctx, e, p) }, nil},
		{"record", func(context.Context) error { return m.recordStop(e, p) }, nil},
	}) {
		at(s.name)
		if err := guarded(ctx, s.name, s.do); err != nil {
			return fmt.Errorf("cannot stop pod %s: %s: %w", p.ID, s.name, err)
		}
	}
	return nil
}

// recordStopping has the next daemon go on where this one is killed: half a pod is
// not ready. What cannot be written (disk full) keeps no pod up.
func (m *Manager) recordStopping(e *podEntry) *Pod {
	p := m.currentPod(e)
	if !p.Ready() || p.Stopping {
		return p
	}
	stopping := *p
	stopping.Stopping = true
	if err := m.savePod(e, &stopping); err != nil {
		logger(p.ID).Warn("cannot record that the pod is being stopped", "err", err)
		return p
	}
	return &stopping
}

// publishDown has nobody take the pod for ready whose address may be another's: the
// rest of its end may fail, or take long.
func (m *Manager) publishDown(e *podEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	down := *e.pod
	down.Down = true
	m.publishPod(e.pod, &down)
	e.pod = &down
}

func (m *Manager) recordStop(e *podEntry, p *Pod) error {
	if p.ReadyAt.IsZero() {
		return nil // it never was: all of it goes, its record too
	}
	stopped := *p
	stopped.StoppedAt = time.Now()
	defer m.forgetUse(p.ID)
	return m.savePod(e, &stopped)
}

// takeDown undoes what a pod has on the host but its directories.
func (m *Manager) takeDown(ctx context.Context, e *podEntry, p *Pod) error {
	m.publishDown(e)
	up := &podUp{Manager: m, entry: e, pod: *p}
	return errors.Join(
		m.cfg.Runtime.Delete(ctx, oci.InitID(p.ID), cgroupPath(p.CgroupParent, oci.InitID(p.ID))),
		undo(ctx, up.hostSteps()),
	)
}

// killAll ends all containers of the pod, all at once.
func (m *Manager) killAll(ctx context.Context, podID string) error {
	var errs []error
	results := make(chan error)
	all := m.containersOf(podID)
	for _, c := range all {
		go func() { results <- m.StopContainer(ctx, c, 0) }()
	}
	for range all {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// containersOf lists the ids of the pod's containers, also of unfinished ones.
func (m *Manager) containersOf(podID string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id, e := range m.containers {
		if e.ctr.PodID == podID {
			ids = append(ids, id)
		}
	}
	return ids
}

// RemovePod stops the pod and removes its containers and itself. It is
// idempotent, also for a pod that is not there.
func (m *Manager) RemovePod(ctx context.Context, id string) error {
	if err := m.StopPod(ctx, id); err != nil {
		return err
	}
	e, err := m.podEntry(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.lock.acquire(ctx); err != nil {
		return fmt.Errorf("cannot remove pod %s: %w", id, err)
	}
	defer e.lock.release()
	p := m.currentPod(e)
	at, ctx := atStage(&e.stage), waits.At(ctx, &e.stage.waits)
	defer at("")
	for _, s := range m.faulty("remove pod", []step{
		{"remove containers", func(ctx context.Context) error { return m.removeContainers(ctx, p.ID) }, nil},
		{"remove directories", func(context.Context) error { return m.removePodDirs(p.ID) }, nil},
	}) {
		at(s.name)
		if err := guarded(ctx, s.name, s.do); err != nil {
			return fmt.Errorf("cannot remove pod %s: %s: %w", p.ID, s.name, err)
		}
	}
	m.forgetPod(p)
	m.spaces.ahead.Fill()
	return nil
}

func (m *Manager) removeContainers(ctx context.Context, podID string) error {
	for _, c := range m.containersOf(podID) {
		if err := m.RemoveContainer(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
