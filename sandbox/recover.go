package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/sandbox/record"
)

// recoverers is how many pods are looked at side by side.
const recoverers = 16

// Recover reads all records and sets them against what the keeper holds and the
// kernel shows. What was being made is undone; what ended meanwhile is recorded;
// a damaged record is set aside and hurts nobody else.
func (m *Manager) Recover(ctx context.Context) error {
	kept := map[string]keeper.Kept{}
	for _, k := range m.cfg.Custody.Items() {
		kept[k.ID] = k
	}
	if err := m.loadPods(); err != nil {
		return err
	}
	if err := m.loadContainers(); err != nil {
		return err
	}
	m.setAsideStale()
	if err := m.dropOrphans(ctx); err != nil {
		slog.Error("cannot remove containers without a pod", "err", err)
	}
	m.mu.Lock()
	pods := make([]*podEntry, 0, len(m.pods))
	for _, e := range m.pods {
		pods = append(pods, e)
	}
	m.mu.Unlock()
	var wg sync.WaitGroup
	slots := make(chan struct{}, recoverers)
	for _, e := range pods {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			m.recoverPod(ctx, e, kept)
		}()
	}
	wg.Wait()
	m.WritableUse() // has all layers walked, so that the first who asks is told
	// What cannot be cleaned up now is tried again: it keeps nobody from serving.
	if err := m.Reconcile(ctx); err != nil {
		slog.Error("cannot reconcile", "err", err)
	}
	return nil
}

// known tells whether a pod that is up has this id, or one that begins so.
func (m *Manager) known(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for full, e := range m.pods {
		if strings.HasPrefix(full, id) && e.pod.StoppedAt.IsZero() {
			return true
		}
	}
	return false
}

// objects lists the directories below dir that are named by an id.
func objects(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list records: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func (m *Manager) loadPods() error {
	ids, err := objects(filepath.Join(m.cfg.RootDir, "pods"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		p := new(Pod)
		if err := podKind.Load(m.podDir(id), p); err != nil || p.ID != id {
			m.setAside(m.podDir(id), cmp.Or(err, errPlace))
			continue
		}
		m.cfg.Labels.Hold(p.Labels)
		p.Down = p.Stopping
		m.mu.Lock()
		m.pods[id] = &podEntry{lock: newLock(), pod: p, stopping: p.Stopping}
		m.podKeys[podKey(p.Config.Of)] = id
		m.publishPod(nil, p)
		m.mu.Unlock()
	}
	return nil
}

func (m *Manager) loadContainers() error {
	ids, err := objects(filepath.Join(m.cfg.RootDir, "containers"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		c := new(Container)
		if err := containerKind.Load(m.containerDir(id), c); err != nil || c.ID != id {
			m.setAside(m.containerDir(id), cmp.Or(err, errPlace))
			continue
		}
		m.mu.Lock()
		m.containers[id] = &containerEntry{lock: newLock(), ctr: c, exited: make(chan struct{})}
		m.ctrKeys[containerKey(c.PodID, c.Config.Of)] = id
		m.publishContainer(nil, c)
		m.mu.Unlock()
		m.cfg.Images.Hold(id, c.Image.Layers)
	}
	return nil
}

var (
	errPlace = errors.New("it is the record of another")
	errStale = errors.New("it is older than the pod's containers: its end is missing")
)

// setAsideStale sets aside the record of a pod that was never ready and yet has
// containers: what made it ready was in the file and is damaged.
func (m *Manager) setAsideStale() {
	m.mu.Lock()
	used := map[string]bool{}
	for _, e := range m.containers {
		used[e.ctr.PodID] = true
	}
	var stale []*Pod
	for id, e := range m.pods {
		if used[id] && e.pod.ReadyAt.IsZero() {
			stale = append(stale, e.pod)
		}
	}
	m.mu.Unlock()
	for _, p := range stale {
		m.forgetPod(p)
		m.setAside(m.podDir(p.ID), errStale)
	}
}

// setAside moves a record that cannot be used out of the way. A directory
// without any is what a kill between mkdir and the first write left.
func (m *Manager) setAside(dir string, why error) {
	if errors.Is(why, fs.ErrNotExist) {
		if err := os.RemoveAll(dir); err != nil {
			slog.Error("cannot remove unfinished directory", "dir", dir, "err", err)
		}
		return
	}
	to, err := record.Quarantine(dir, why)
	slog.Error("record set aside", "dir", dir, "to", to, "why", why, "err", err)
}

// recoverPod brings one pod and its containers in line with the facts.
func (m *Manager) recoverPod(ctx context.Context, e *podEntry, kept map[string]keeper.Kept) {
	p := m.currentPod(e)
	for _, id := range m.containersOf(p.ID) {
		if err := m.recoverContainer(ctx, id, kept); err != nil {
			logger(id).Error("cannot recover container", "err", err)
		}
	}
	var err error
	switch _, held := kept[p.ID]; {
	case p.ReadyAt.IsZero():
		err = m.RemovePod(ctx, p.ID)
	case p.Stopping && p.StoppedAt.IsZero():
		go m.stopOn(ctx, p.ID) // which may hang, and keeps nobody from serving
	case p.StoppedAt.IsZero() && (!held || p.BootID != m.cfg.BootID):
		if err = m.readoptPod(ctx, p); err != nil {
			err = m.lostPod(ctx, e, p, err)
		}
	}
	if err != nil {
		logger(p.ID).Error("cannot recover pod", "err", err)
	}
}

// stopOn goes on with a stop that an earlier daemon began. Until it is done the pod
// takes no containers.
func (m *Manager) stopOn(ctx context.Context, id string) {
	if err := m.StopPod(ctx, id); err != nil {
		logger(id).Error("cannot stop the pod that was being stopped", "err", err)
	}
}

// lostPod records a pod whose namespaces are gone: after a reboot, or when
// daemon and keeper died together.
func (m *Manager) lostPod(ctx context.Context, e *podEntry, p *Pod, why error) error {
	lost := *p
	lost.StoppedAt = time.Now()
	lost.Problem = fmt.Sprintf("its namespaces are gone: %v", why)
	if err := m.killAll(ctx, p.ID); err != nil {
		return err
	}
	if err := m.takeDown(ctx, e, p); err != nil {
		return err
	}
	return m.savePod(e, &lost)
}

func (m *Manager) recoverContainer(ctx context.Context, id string, kept map[string]keeper.Kept) error {
	e, err := m.containerEntry(id)
	if err != nil {
		return err
	}
	c := m.currentContainer(e)
	k, held := kept[id]
	switch {
	case c.End != nil:
		m.ended(e)
		return m.cfg.Custody.Release(ctx, id)
	case !c.Made:
		return m.RemoveContainer(ctx, id)
	case held:
		return m.recoverHeld(ctx, e, c, k)
	case c.StartedAt.IsZero():
		// Its process may have been made and not recorded: it starts from afresh.
		return m.cfg.Runtime.Delete(ctx, c.ID, m.cgroupOf(c))
	}
	err = m.readoptContainer(ctx, c)
	if err == nil {
		m.exits.began(c.ID)
		return nil
	}
	if err := m.kill(ctx, c); err != nil {
		return err
	}
	return m.recordExit(ctx, e, keeper.Exit{Code: 255, At: time.Now(), Unknown: m.whyUnknown(c, err)})
}

// recoverHeld handles a container that the keeper has: it runs, ended meanwhile,
// or was started by a daemon that died before it could write that down.
func (m *Manager) recoverHeld(ctx context.Context, e *containerEntry, c *Container, k keeper.Kept) error {
	if c.StartedAt.IsZero() {
		started := *c
		started.StartedAt, started.PID, started.BootID = time.Now(), k.PID, m.cfg.BootID
		started.PIDStart = oci.StartTime(k.PID) // by which it is known again without the keeper
		if k.Exit != nil {
			started.StartedAt = notBefore(k.Exit.At, c.CreatedAt)
		}
		if err := m.saveContainer(e, &started); err != nil {
			return err
		}
	}
	if k.Exit != nil {
		return m.recordExit(ctx, e, *k.Exit)
	}
	m.exits.began(c.ID)
	return nil
}

func (m *Manager) whyUnknown(c *Container, why error) string {
	if c.BootID != m.cfg.BootID {
		return "the machine was restarted while it ran"
	}
	return fmt.Sprintf("daemon and keeper died while it ran: %v", why)
}
