package sandbox

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/spec"
)

var errTerminal = errors.New("its terminal ended with daemon and keeper")

// readoptContainer takes a container over that outlived daemon and keeper.
func (m *Manager) readoptContainer(ctx context.Context, c *Container) error {
	if c.BootID != m.cfg.BootID {
		return oci.ErrGone
	}
	if c.Config.Of.GetTty() {
		return errTerminal
	}
	return m.cfg.Runtime.Readopt(ctx, c.Bundle, c.process())
}

func (c *Container) process() oci.Started {
	return oci.Started{PID: c.PID, PIDStart: c.PIDStart, At: c.StartedAt}
}

// readoptPod takes a pod over whose namespaces nobody holds: the network's by its
// pin, the others from a container that runs. Without one they were empty but for
// shared memory, and are made anew.
func (m *Manager) readoptPod(ctx context.Context, p *Pod) error {
	if p.BootID != m.cfg.BootID {
		return errors.New("the machine was restarted")
	}
	files := m.filesOfRunning(p)
	if err := m.fillPodFiles(ctx, p, files); err != nil {
		closeFiles(files)
		return err
	}
	if err := m.cfg.Custody.Hold(ctx, p.ID, files); err != nil {
		return err
	}
	if p.sharedPID() {
		return m.cfg.Runtime.ReadoptInit(ctx, p.ID, cgroupPath(p.CgroupParent, oci.InitID(p.ID)))
	}
	return nil
}

// filesOfRunning is what a running container of the pod shares with it; empty
// without one.
func (m *Manager) filesOfRunning(p *Pod) map[string]*os.File {
	files := map[string]*os.File{}
	for _, id := range m.containersOf(p.ID) {
		c, err := m.Container(id)
		if err != nil || c.PID == 0 || c.End != nil {
			continue
		}
		got, err := m.cfg.Runtime.PodFiles(c.process())
		if err != nil {
			logger(p.ID).Warn("a container cannot give the pod's namespaces back", "container", id, "err", err)
			continue
		}
		files = got
		break
	}
	drop := func(names ...string) {
		for _, name := range names {
			if f := files[name]; f != nil {
				f.Close()
				delete(files, name)
			}
		}
	}
	if p.hostIPC() {
		drop("ipc", "shm")
	}
	if p.hostNetwork() {
		drop("uts")
	}
	if p.ids().IsZero() {
		drop("user")
	}
	return files
}

// fillPodFiles adds what files lacks.
func (m *Manager) fillPodFiles(ctx context.Context, p *Pod, files map[string]*os.File) error {
	if !p.hostNetwork() {
		net, err := netns.Pinned(m.NetNSPath(p.ID))
		if err != nil {
			return err
		}
		files["net"] = net
	}
	if err := m.fillUsers(ctx, p, files); err != nil {
		return err
	}
	if err := m.fillNamespaces(ctx, p, files); err != nil {
		return err
	}
	if p.hostIPC() || files["shm"] != nil {
		return nil
	}
	shm, err := m.newShm(p)
	if err != nil {
		return err
	}
	files["shm"] = shm
	return nil
}

// fillNamespaces makes those anew that are missing, all but the network's.
func (m *Manager) fillNamespaces(ctx context.Context, p *Pod, files map[string]*os.File) error {
	opts := netns.Options{NoNet: true, IPC: !p.hostIPC() && files["ipc"] == nil, UTS: !p.hostNetwork() && files["uts"] == nil}
	if !opts.IPC && !opts.UTS {
		return nil
	}
	if opts.UTS {
		opts.Hostname = p.hostname()
	}
	sysctls, err := spec.Sysctls(p.Config.Of)
	if err != nil {
		return err
	}
	// The network's are set already; it is the same as before.
	maps.DeleteFunc(sysctls, func(key, _ string) bool { return strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "net/") })
	opts.Sysctls = sysctls
	if ids := p.ids(); !ids.IsZero() {
		made, err := m.namespacesOf(ctx, p.ID, opts, oci.NamespaceSet{IDs: ids, Join: files["user"]})
		maps.Copy(files, made)
		return err
	}
	set, err := netns.New(ctx, opts)
	if err != nil {
		return err
	}
	maps.Copy(files, set.Files())
	return nil
}
