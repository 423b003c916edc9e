package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/oci/waits"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container in a pod and returns its id. It is
// idempotent by pod, name and attempt.
func (m *Manager) CreateContainer(ctx context.Context, podID string, c *runtimeapi.ContainerConfig) (string, error) {
	e, err := m.podEntry(podID)
	if err != nil {
		return "", err
	}
	p := m.currentPod(e)
	if err := spec.ValidateContainer(c, p.Config.Of); err != nil {
		return "", err
	}
	if err := m.checkLabels(c.GetLinux().GetSecurityContext().GetSelinuxOptions()); err != nil {
		return "", err
	}
	if p.Ready() {
		m.creates.claim("pod/" + podKey(p.Config.Of))
	}
	key := containerKey(p.ID, c)
	return m.creates.join(ctx, "container/"+key, c, flightWork{
		do: func(ctx context.Context) (string, error) {
			if id, err := m.existingContainer(key, c); id != "" || err != nil {
				return id, err
			}
			if err := m.clearContainer(ctx, key); err != nil {
				return "", err
			}
			return m.createContainer(ctx, e, p, c)
		},
		same: func(other any) error { return sameContainer(key, other.(*runtimeapi.ContainerConfig), c) },
		drop: m.RemoveContainer,
	})
}

func (m *Manager) existingContainer(key string, c *runtimeapi.ContainerConfig) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.ctrKeys[key]
	if id == "" || !m.containers[id].ctr.Made {
		return "", nil
	}
	return id, sameContainer(key, m.containers[id].ctr.Config.Of, c)
}

// clearContainer takes away what an earlier try left because an undo failed. Its
// caller is the one flight of key.
func (m *Manager) clearContainer(ctx context.Context, key string) error {
	m.mu.Lock()
	id := m.ctrKeys[key]
	m.mu.Unlock()
	if id == "" {
		return nil
	}
	if err := m.RemoveContainer(ctx, id); err != nil {
		return fmt.Errorf("cannot clear an earlier try: %w", err)
	}
	return nil
}

func sameContainer(key string, have, want *runtimeapi.ContainerConfig) error {
	if field := differs(have, want); field != "" {
		return fmt.Errorf("container %s exists with another %s: %w", key, field, ErrExists)
	}
	return nil
}

func (m *Manager) createContainer(ctx context.Context, pod *podEntry, p *Pod, c *runtimeapi.ContainerConfig) (string, error) {
	id := newID()
	img, ok := m.cfg.Images.HoldImage(id, c.GetImage().GetImage())
	if !ok {
		return "", fmt.Errorf("image %q is not on this node; pull it first: %w", c.GetImage().GetImage(), ErrNotFound)
	}
	ctr := Container{ID: id, PodID: p.ID, BootID: m.cfg.BootID, Config: Message[*runtimeapi.ContainerConfig]{c}, CreatedAt: time.Now(),
		Image:  ImageUse{ID: img.ID, Name: c.GetImage().GetImage(), Layers: img.Layers},
		Bundle: oci.Bundle{ID: id, PodID: p.ID, Lowers: m.cfg.Images.LayerPaths(img), LogPath: spec.LogPath(p.Config.Of, c), Stdin: c.GetStdin(), MakeSources: m.policy.Load().MakeSources, IDs: p.ids()}}
	var err error
	if ctr.Stop.Number, ctr.Stop.CRI, err = spec.StopSignal(c, img.Config.Config); err != nil {
		m.cfg.Images.Release(id)
		return "", err
	}
	if err := m.imageVolumes(&ctr); err != nil {
		m.cfg.Images.Release(id)
		return "", err
	}
	e := &containerEntry{lock: newLock(), ctr: &ctr, exited: make(chan struct{})}
	// Whoever stops or removes it meanwhile waits: half a container cannot be undone
	// while the other half is being made.
	e.lock <- struct{}{} // it is new: nobody has it
	defer e.lock.release()
	if err := m.enter(pod, e); err != nil {
		m.cfg.Images.Release(id)
		return "", err
	}
	n := &newContainer{Manager: m, entry: e, pod: p, ctr: ctr, image: img}
	if err := run(waits.At(ctx, &e.stage.waits), n.steps(), atStage(&e.stage)); err != nil {
		if !leftBehind(err) {
			m.forgetContainer(&ctr) // else the retry, or reconciling, tries again
		}
		return "", kubeletError(fmt.Errorf("cannot create container %q: %w", c.GetMetadata().GetName(), err))
	}
	return id, nil
}

// enter puts a container into a pod that takes containers.
func (m *Manager) enter(pod *podEntry, e *containerEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pod.stopping || !pod.pod.Ready() {
		return fmt.Errorf("pod %s is not ready: %w", pod.pod.ID, ErrState)
	}
	m.containers[e.ctr.ID] = e
	m.ctrKeys[containerKey(e.ctr.PodID, e.ctr.Config.Of)] = e.ctr.ID
	return nil
}

func (m *Manager) forgetContainer(c *Container) {
	defer m.forgetUse(c.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.containers[c.ID]; e != nil {
		m.publishContainer(e.ctr, nil)
	}
	delete(m.containers, c.ID)
	if key := containerKey(c.PodID, c.Config.Of); m.ctrKeys[key] == c.ID {
		delete(m.ctrKeys, key)
	}
}

// newContainer is a container being made. ctr is what will be published.
type newContainer struct {
	*Manager
	entry *containerEntry
	pod   *Pod
	ctr   Container
	image image.Image
}

func (n *newContainer) steps() []step {
	id := n.ctr.ID
	return n.faulty("container", []step{
		{"hold image", nil, func(context.Context) error { n.cfg.Images.Release(id); return nil }},
		{"write record", n.writeRecord, func(context.Context) error { return n.removeContainerDir(id) }},
		{"prepare", n.prepare, func(ctx context.Context) error {
			return n.cfg.Runtime.Delete(ctx, id, cgroupPath(n.pod.CgroupParent, id))
		}},
		{"publish", n.publish, nil},
	})
}

func (n *newContainer) writeRecord(context.Context) error {
	if err := os.Mkdir(n.containerDir(n.ctr.ID), 0o711); err != nil {
		return err
	}
	return containerKind.Save(n.containerDir(n.ctr.ID), &n.ctr)
}

func (m *Manager) removeContainerDir(id string) error { return oci.RemoveAll(m.containerDir(id)) }

// prepare mounts the root file system, which tells who the user is, makes the
// spec, and hands both to the runtime.
func (n *newContainer) prepare(ctx context.Context) error {
	labels, err := n.label()
	if err != nil {
		return err
	}
	rootfs, err := n.cfg.Runtime.Rootfs(n.ctr.Bundle)
	if err != nil {
		return err
	}
	s, err := n.spec(ctx, rootfs, labels)
	if err != nil {
		rootfs.Close()
		return err
	}
	n.ctr.Bundle.Spec = s
	if err := n.saveSpec(n.ctr.ID, s); err != nil {
		rootfs.Close()
		return err
	}
	return n.cfg.Runtime.Prepare(ctx, n.ctr.Bundle, rootfs)
}

func (n *newContainer) publish(context.Context) error {
	n.ctr.Made = true
	n.entry.spec.Store(n.ctr.Bundle.Spec)
	c := n.ctr
	c.Bundle.Spec = nil // the entry has it, while it is of use
	return n.saveContainer(n.entry, &c)
}

// maxAccounts bounds /etc/passwd and /etc/group, which an image may make as
// large as it likes (CVE-2026-47262, CVE-2025-4437).
const maxAccounts = 1 << 20

func readAccounts(rootfs *os.File, path string) ([]byte, error) {
	b, err := mount.ReadFileIn(rootfs, path, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// volumeDir is the host directory of an image's n-th VOLUME.
func (m *Manager) volumeDir(id string, i int) string {
	return filepath.Join(m.containerDir(id), "volumes", fmt.Sprint(i))
}
