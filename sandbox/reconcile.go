package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/keeper"
)

// reconcileEvery is the time between two looks at what is there against what
// should be.
const reconcileEvery = time.Minute

// afterSystemd is when a new daemon looks first where systemd makes groups: what one
// that was killed had asked for is made after Recover looked, and is nobody's.
const afterSystemd = 2 * time.Second

// KeepReconciling reconciles on a timer until ctx ends. At the start Recover has
// done it.
func (m *Manager) KeepReconciling(ctx context.Context) {
	next := time.NewTimer(reconcileEvery)
	if m.cfg.Slices {
		next.Reset(afterSystemd)
	}
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			if err := m.Reconcile(ctx); err != nil {
				slog.Error("cannot reconcile", "err", err)
			}
			next.Reset(reconcileEvery)
		}
	}
}

// Reconcile takes away what is ours by its name and belongs to no pod or
// container that is known, tries again what could not be undone, and reports a
// record whose objects are gone. Things are listed before the records are asked:
// what is being made has its record first.
func (m *Manager) Reconcile(ctx context.Context) error {
	return errors.Join(m.undoLeft(ctx), m.dropCustody(ctx), m.dropCgroups(ctx), m.dropPins(), m.dropDirs(ctx),
		m.cfg.Network.Sweep(ctx, m.known), m.reportLost())
}

// leaked tells of something on the host that was ours and nobody's.
func (m *Manager) leaked(what string, args ...any) {
	m.leaks.Add(1)
	slog.Warn(what, args...)
}

// Leaks counts what Reconcile and Recover found and removed since the daemon
// began.
func (m *Manager) Leaks() uint64 { return m.leaks.Load() }

// undoLeft removes what a failed creation left because an undo failed too.
func (m *Manager) undoLeft(ctx context.Context) error {
	pods, containers := m.unfinished()
	var errs []error
	for _, id := range containers {
		errs = append(errs, m.RemoveContainer(ctx, id))
	}
	for _, id := range pods {
		errs = append(errs, m.RemovePod(ctx, id))
	}
	return errors.Join(errs...)
}

// unfinished lists what was never ready and nobody is making.
func (m *Manager) unfinished() (pods, containers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, e := range m.pods {
		if e.pod.ReadyAt.IsZero() && !m.creates.under("pod/"+podKey(e.pod.Config.Of)) {
			pods = append(pods, id)
		}
	}
	for id, e := range m.containers {
		if !e.ctr.Made && !m.creates.under("container/"+containerKey(e.ctr.PodID, e.ctr.Config.Of)) {
			containers = append(containers, id)
		}
	}
	return pods, containers
}

// dropCustody releases what is held of nobody, or of a pod that has stopped: its
// namespaces are dropped some time after that was recorded.
func (m *Manager) dropCustody(ctx context.Context) error {
	var errs []error
	for _, k := range m.cfg.Custody.Items() {
		if k.Kind == keeper.KindExec || m.holds(k.ID) {
			continue
		}
		slog.Warn("something in custody belongs to no pod or container that is up", "id", k.ID)
		errs = append(errs, m.cfg.Custody.Release(ctx, k.ID))
	}
	return errors.Join(errs...)
}

// holds tells whether what is in custody under this id has an owner.
func (m *Manager) holds(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[id] != nil {
		return true
	}
	e := m.pods[strings.TrimSuffix(id, oci.InitID(""))]
	return e != nil && e.pod.StoppedAt.IsZero()
}

// dropCgroups ends and removes groups of ours that no pod has.
func (m *Manager) dropCgroups(ctx context.Context) error {
	names, err := m.cfg.Cgroups.Groups(path.Dir(m.ownCgroup("any")))
	errs := []error{err}
	for _, name := range names {
		if id := m.ofOwnCgroup(name); id != "" && !m.anyPod(id) {
			m.leaked("a control group of no pod is removed", "id", id)
			errs = append(errs, m.cfg.Runtime.Delete(ctx, id, m.ownCgroup(id)))
		}
	}
	return errors.Join(errs...)
}

// dropPins removes names of network namespaces that no pod has.
func (m *Manager) dropPins() error {
	prefix := m.NetNSPath("0123456789ab") // the name's end is the beginning of an id
	prefix = prefix[:len(prefix)-12]
	found, err := filepath.Glob(prefix + "*")
	errs := []error{err}
	for _, path := range found {
		if id := strings.TrimPrefix(path, prefix); len(id) == 12 && !m.known(id) {
			m.leaked("a network namespace's name of no pod is removed", "path", path)
			errs = append(errs, netns.Unpin(path))
		}
	}
	return errors.Join(errs...)
}

// dropDirs removes directories in the state directory that nobody has.
func (m *Manager) dropDirs(ctx context.Context) error {
	pods, err := objects(filepath.Join(m.cfg.StateDir, "pods"))
	containers, err2 := objects(filepath.Join(m.cfg.StateDir, "containers"))
	errs := []error{err, err2}
	for _, id := range pods {
		if !m.anyPod(id) {
			errs = append(errs, os.RemoveAll(m.podState(id)))
		}
	}
	for _, id := range containers {
		if !m.anyContainer(id) {
			errs = append(errs, m.dropContainer(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// dropContainer ends a container of which the id is known and nothing else: its
// group is looked for in those of all pods.
func (m *Manager) dropContainer(ctx context.Context, id string) error {
	m.leaked("a container without a record is removed", "id", id)
	parents := map[string]bool{}
	for _, p := range m.List().Pods {
		parents[p.CgroupParent] = true
	}
	var errs []error
	for parent := range parents {
		errs = append(errs, m.cfg.Runtime.Delete(ctx, id, cgroupPath(parent, id)))
	}
	return errors.Join(append(errs, m.cfg.Runtime.Delete(ctx, id, m.ownCgroup(id)))...)
}

// dropOrphans ends the containers whose pod's record could not be used: the
// kubelet cannot know that pod any more and makes it anew.
func (m *Manager) dropOrphans(ctx context.Context) error {
	var errs []error
	for _, c := range m.orphans() {
		group := m.cgroupOf(c)
		if s, err := m.Spec(c.ID); err == nil && s.Linux != nil {
			group = s.Linux.CgroupsPath
		}
		logger(c.ID).Warn("a container without a pod is removed", "pod", c.PodID)
		if err := m.cfg.Runtime.Delete(ctx, c.ID, group); err != nil {
			errs = append(errs, err)
			continue
		}
		m.cfg.Images.Release(c.ID)
		errs = append(errs, m.removeContainerDir(c.ID))
		m.forgetContainer(c)
	}
	return errors.Join(errs...)
}

func (m *Manager) orphans() []*Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Container
	for _, e := range m.containers {
		if m.pods[e.ctr.PodID] == nil {
			out = append(out, e.ctr)
		}
	}
	return out
}

// reportLost names the pods that should be in custody and are not.
func (m *Manager) reportLost() error {
	kept := map[string]keeper.Kept{}
	for _, k := range m.cfg.Custody.Items() {
		kept[k.ID] = k
	}
	var errs []error
	for _, p := range m.List().Pods {
		if _, held := kept[p.ID]; !held && p.Ready() && m.stillReady(p.ID) {
			errs = append(errs, fmt.Errorf("pod %s is ready, but nobody holds its namespaces", p.ID))
		}
	}
	return errors.Join(errs...)
}

// stillReady asks again: it may have been stopped since the list was made.
func (m *Manager) stillReady(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[id]
	return e != nil && e.pod.Ready() && !e.stopping
}

// anyPod tells whether there is a pod with this id, or one that begins so,
// whatever its state.
func (m *Manager) anyPod(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for full := range m.pods {
		if strings.HasPrefix(full, id) {
			return true
		}
	}
	return false
}

func (m *Manager) anyContainer(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.containers[id] != nil || len(id) > 64 && m.pods[strings.TrimSuffix(id, oci.InitID(""))] != nil
}
