package sandbox

import (
	"context"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"golang.org/x/sys/unix"
)

// exits orders the news of ended processes: the keeper's may come before the
// start has been recorded, and then waits for it.
type exits struct {
	mu      sync.Mutex
	wake    chan struct{}
	queue   []keeper.Item
	early   map[string]keeper.Item // ended, start not yet recorded
	started map[string]bool
	execs   map[string]chan keeper.Exit
}

func (x *exits) init() {
	x.wake = make(chan struct{}, 1)
	x.early, x.started, x.execs = map[string]keeper.Item{}, map[string]bool{}, map[string]chan keeper.Exit{}
}

// put takes in what the keeper said. It does not block.
func (x *exits) put(i keeper.Item) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i.Kind == keeper.KindContainer && !x.started[i.ID] {
		x.early[i.ID] = i
		return
	}
	x.queue = append(x.queue, i)
	x.nudge()
}

func (x *exits) nudge() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// began says that the start of a container is recorded.
func (x *exits) began(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.started[id] = true
	if i, ok := x.early[id]; ok {
		delete(x.early, id)
		x.queue = append(x.queue, i)
		x.nudge()
	}
}

func (x *exits) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.started, id)
	delete(x.early, id)
}

func (x *exits) take() []keeper.Item {
	x.mu.Lock()
	defer x.mu.Unlock()
	q := x.queue
	x.queue = nil
	return q
}

// OnExit is where the keeper's client reports (keeper.Config).
func (m *Manager) OnExit(i keeper.Item) {
	switch {
	case i.Kind == keeper.KindExec:
		m.execExited(i)
	case len(i.ID) == idDigits:
		m.exits.put(i) // else it is a pod's init, whose end is its pod's stop
	}
}

// WatchExits records ended containers until ctx ends.
func (m *Manager) WatchExits(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.exits.wake:
		}
		for _, i := range m.exits.take() {
			if m.leavesProcesses(i.ID) { // whose end may take long: the others' is recorded meanwhile
				go m.takeExit(ctx, i)
			} else {
				m.takeExit(ctx, i)
			}
		}
	}
}

// leavesProcesses tells whether the container's end has to end others too (setEnd).
func (m *Manager) leavesProcesses(id string) bool {
	e, err := m.containerEntry(id)
	return err == nil && !m.currentContainer(e).ownPIDs()
}

func (m *Manager) takeExit(ctx context.Context, i keeper.Item) {
	if err := guarded(ctx, "exit", func(ctx context.Context) error { return m.exited(ctx, i) }); err != nil {
		logger(i.ID).Error("cannot record exit, will try again", "err", err)
		time.AfterFunc(saveAgain, func() { m.exits.put(i) })
	}
}

// saveAgain is when an exit is written again that could not be (disk full).
const saveAgain = time.Second

// exited records the end of a container.
func (m *Manager) exited(ctx context.Context, i keeper.Item) error {
	e, err := m.containerEntry(i.ID)
	if err != nil {
		return nil // a pod's init, or removed meanwhile
	}
	if c := m.currentContainer(e); c.PID != 0 && i.PID != 0 && c.PID != i.PID {
		return nil // of an earlier start, which could not be recorded
	}
	return m.recordExit(ctx, e, *i.Exit)
}

func (m *Manager) recordExit(ctx context.Context, e *containerEntry, exit keeper.Exit) error {
	e.saveMu.Lock()
	defer e.saveMu.Unlock()
	c := *m.currentContainer(e)
	unsaved := m.isUnsaved(e)
	if c.End != nil && !unsaved {
		return m.cfg.Custody.Release(ctx, c.ID)
	}
	if !unsaved {
		m.setEnd(ctx, &c, exit)
	}
	err := m.fault("exit: record")
	if err == nil {
		err = m.saveContainer(e, &c)
	}
	if err != nil && !m.keepUnsaved(e, &c) { // else the keeper has it still, for the next daemon
		err = nil
	}
	m.ended(e)
	if err == nil {
		err = m.fault("exit: release")
	}
	if err != nil {
		return err
	}
	// The record has it all now: the keeper may let go.
	return m.cfg.Custody.Release(ctx, c.ID)
}

func (m *Manager) setEnd(ctx context.Context, c *Container, exit keeper.Exit) {
	if !c.ownPIDs() {
		// What it left behind in a PID namespace that lives on ends with it.
		if err := m.cfg.Cgroups.Kill(ctx, c.ID, m.cgroupOf(c)); err != nil {
			logger(c.ID).Warn("cannot kill what the container left", "err", err)
		}
	}
	c.End = m.endOf(c, exit)
}

// ended wakes whoever waits for the container's end.
func (m *Manager) ended(e *containerEntry) {
	e.stopMu.Lock()
	defer e.stopMu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
	select {
	case <-e.exited:
	default:
		close(e.exited)
	}
}

func (m *Manager) endOf(c *Container, exit keeper.Exit) *End {
	kills := m.oomKills(c, exit)
	end := &End{At: notBefore(exit.At, c.StartedAt), Code: exit.Code, Reason: ReasonError}
	switch {
	case exit.Unknown != "":
		end.Reason, end.Message = ReasonUnknown, exit.Unknown
	case exit.Code == 0:
		end.Reason = ReasonCompleted
	case exit.Code == 128+int(unix.SIGKILL) && kills > 0:
		end.Reason = ReasonOOMKilled
	}
	return end
}

// oomKills asks whenever the keeper has counted: what is counted for one container is
// none of its pod's others'.
func (m *Manager) oomKills(c *Container, exit keeper.Exit) uint64 {
	if exit.Kills == nil && exit.Code != 128+int(unix.SIGKILL) {
		return 0
	}
	n, err := m.cfg.Cgroups.OOMKills(c.ID, m.cgroupOf(c), exit)
	if err != nil {
		return 0
	}
	return n
}

// cgroupOf is the path of a container's group.
func (m *Manager) cgroupOf(c *Container) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[c.PodID]; p != nil {
		return cgroupPath(p.pod.CgroupParent, c.ID)
	}
	return cgroupPath(m.ownCgroup(c.PodID), c.ID)
}
