package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// spec gathers what the container's spec depends on, and makes it.
func (n *newContainer) spec(ctx context.Context, rootfs *os.File, labels label.Labels) (*specs.Spec, error) {
	c, img := n.ctr.Config.Of, n.image.Config.Config
	in := spec.Input{ID: n.ctr.ID, SandboxID: n.pod.ID, Sandbox: n.pod.Config.Of, Config: c, Image: img,
		Labels:     spec.Labels(labels),
		CgroupPath: cgroupPath(n.pod.CgroupParent, n.ctr.ID), Host: n.host(), Defaults: n.policy.Load().Defaults}
	var err error
	if in.Passwd, err = readAccounts(rootfs, "/etc/passwd"); err != nil {
		return nil, err
	}
	if in.Group, err = readAccounts(rootfs, "/etc/group"); err != nil {
		return nil, err
	}
	if in.Files, err = n.files(ctx, rootfs); err != nil {
		return nil, err
	}
	if in.Namespaces, err = n.namespaces(); err != nil {
		return nil, err
	}
	if in.Devices, err = hostDevices(c.GetDevices()); err != nil {
		return nil, err
	}
	if c.GetLinux().GetSecurityContext().GetPrivileged() {
		if in.Host.Devices, err = walkDevices("/dev", "/dev"); err != nil { // as they are now: some come and go
			return nil, err
		}
	}
	if in.Host.AppArmor, err = n.useAppArmor(ctx, in.Host.AppArmor); err != nil {
		return nil, err
	}
	if in.SeccompProfile, err = readProfile(c); err != nil {
		return nil, err
	}
	if n.ctr.User, err = spec.ResolveUser(c.GetLinux().GetSecurityContext(), img.User, in.Passwd, in.Group); err != nil {
		return nil, err
	}
	return spec.Container(in)
}

// host is the node as the container sees it: a pod with a UTS namespace has a
// hostname of its own, also where the request names none.
func (n *newContainer) host() spec.Host {
	host := n.cfg.Host
	if name := n.pod.hostname(); name != "" {
		host.Hostname = name
	}
	return host
}

// files are the pod's own files, and the image's volumes with its content.
func (n *newContainer) files(ctx context.Context, rootfs *os.File) (spec.Files, error) {
	f := spec.Files{Hosts: n.podFile(n.pod.ID, hostsFile), Hostname: n.podFile(n.pod.ID, hostnameFile),
		ResolvConf: n.podFile(n.pod.ID, resolvFile), Volumes: map[string]string{}, Images: map[string]string{}}
	for i, mt := range n.ctr.Config.Of.GetMounts() {
		if mt.GetImage() != nil {
			f.Images[mt.GetContainerPath()] = n.imageSource(n.ctr.ID, i)
		}
	}
	if !n.pod.hostIPC() {
		f.Shm = n.podFile(n.pod.ID, "shm")
	}
	for i, dst := range spec.Volumes(n.ctr.Config.Of, n.image.Config.Config) {
		dir := n.volumeDir(n.ctr.ID, i)
		if err := n.makeVolume(dir); err != nil {
			return f, err
		}
		if err := mount.CopyUp(ctx, rootfs, dst, dir); err != nil {
			return f, err
		}
		f.Volumes[dst] = dir
	}
	return f, nil
}

// makeVolume makes the directory of a volume, which is the container's root's.
func (n *newContainer) makeVolume(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil || n.pod.ids().IsZero() {
		return err
	}
	uid, gid := n.pod.ids().Root()
	return os.Chown(dir, uid, gid)
}

// namespaces says where the container lives. Those of the pod are held by
// descriptors; the paths here are their names in the spec, and only the network
// namespace's can be opened.
func (n *newContainer) namespaces() (spec.Namespaces, error) {
	ns := spec.Namespaces{Network: n.NetNSPath(n.pod.ID), IPC: n.podFile(n.pod.ID, "ns/ipc"), UTS: n.podFile(n.pod.ID, "ns/uts"),
		User: n.podFile(n.pod.ID, "ns/user")}
	if n.pod.hostNetwork() {
		ns.Network, ns.UTS = spec.NodeNamespace, spec.NodeNamespace
	}
	if n.pod.hostIPC() {
		ns.IPC = spec.NodeNamespace
	}
	options := n.ctr.Config.Of.GetLinux().GetSecurityContext().GetNamespaceOptions()
	switch options.GetPid() {
	case runtimeapi.NamespaceMode_NODE:
		ns.PID = spec.NodeNamespace
	case runtimeapi.NamespaceMode_POD:
		ns.PID = n.podFile(n.pod.ID, "ns/pid")
		n.ctr.Bundle.InitCgroup = cgroupPath(n.pod.CgroupParent, oci.InitID(n.pod.ID))
	case runtimeapi.NamespaceMode_TARGET:
		return n.target(ns, options.GetTargetId())
	}
	return ns, nil
}

// target makes the container live in the PID namespace of another one of the
// same pod, as an ephemeral container does.
func (n *newContainer) target(ns spec.Namespaces, id string) (spec.Namespaces, error) {
	c, err := n.Container(id)
	if err != nil {
		return ns, fmt.Errorf("namespace_options.target_id: %w", err)
	}
	if c.PodID != n.pod.ID || c.State() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return ns, fmt.Errorf("namespace_options.target_id: container %s is not a running one of this pod: %w", id, spec.ErrInvalid)
	}
	n.ctr.Bundle.Target = c.ID
	ns.PID = n.podFile(n.pod.ID, "ns/pid-of-"+c.ID)
	return ns, nil
}

// useAppArmor has the container's profile loaded, and says whether AppArmor can be
// used. Where the default cannot be loaded, as without apparmor_parser, only who asks
// for it is refused.
func (n *newContainer) useAppArmor(ctx context.Context, active bool) (bool, error) {
	profile, asked, err := spec.AppArmor(n.ctr.Config.Of.GetLinux().GetSecurityContext(), active)
	if err != nil || profile == "" {
		return active, err
	}
	err = n.cfg.Runtime.UseAppArmor(ctx, profile)
	if err != nil && !asked {
		logger(n.ctr.ID).Warn("the container has no AppArmor profile", "why", err)
		return false, nil
	}
	return true, err
}

// maxProfile bounds a seccomp profile, in bytes.
const maxProfile = 1 << 20

func readProfile(c *runtimeapi.ContainerConfig) ([]byte, error) {
	kind, path, err := spec.Seccomp(c.GetLinux().GetSecurityContext())
	if err != nil || kind != runtimeapi.SecurityProfile_Localhost {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(b) > maxProfile {
		err = fmt.Errorf("seccomp profile %s has more than %d bytes: %w", path, maxProfile, spec.ErrInvalid)
	}
	return b, err
}

// specFile is the container's spec beside its record: what exec and crictl
// inspect need of it later.
const specFile = "config.json"

func (m *Manager) saveSpec(id string, s *specs.Spec) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot encode spec: %w", err)
	}
	path := filepath.Join(m.containerDir(id), specFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("cannot write spec: %w", err)
	}
	return os.Rename(path+".new", path)
}

// A specCache has a container's runtime-spec while somebody uses it: it is the
// largest thing that is known of a container, its start and commands want it, and a
// container that only runs does not.
type specCache struct {
	spec atomic.Pointer[specs.Spec]
	used atomic.Bool // since the last dropIdle
}

func (c *specCache) Load() *specs.Spec {
	c.used.Store(true)
	return c.spec.Load()
}

func (c *specCache) Store(s *specs.Spec) {
	c.used.Store(true)
	c.spec.Store(s)
}

// keep is Store for what was read; somebody may have stored what is newer meanwhile.
func (c *specCache) keep(s *specs.Spec) *specs.Spec {
	if c.spec.CompareAndSwap(nil, s) {
		return s
	}
	if newer := c.spec.Load(); newer != nil {
		return newer
	}
	return s
}

// DropIdle forgets the specs that were not used since the last call, which are on
// disk, and says how many those are. Call it twice a minute or so: commands that
// probes run are more frequent.
func (m *Manager) DropIdle() (dropped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.containers {
		if !e.spec.used.Swap(false) && e.spec.spec.Swap(nil) != nil {
			dropped++
		}
	}
	return dropped
}

// Spec returns a container's runtime-spec; it must not be changed.
func (m *Manager) Spec(id string) (*specs.Spec, error) {
	e, err := m.containerEntry(id)
	if err != nil {
		return nil, err
	}
	if s := e.spec.Load(); s != nil {
		return s, nil
	}
	b, err := os.ReadFile(filepath.Join(m.containerDir(m.currentContainer(e).ID), specFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read spec: %w", err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("cannot read spec of container %s: %w", id, err)
	}
	if s.Process == nil || s.Linux == nil {
		return nil, fmt.Errorf("cannot read spec of container %s: it has no process or linux part", id)
	}
	spec.RestoreEnv(s.Process, m.currentContainer(e).Config.Of)
	return e.spec.keep(s), nil
}
