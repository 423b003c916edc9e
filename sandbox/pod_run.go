package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/oci/waits"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPod makes a pod and returns its id. It is idempotent by the pod's name,
// namespace, uid and attempt.
func (m *Manager) RunPod(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if err := spec.ValidateSandbox(c); err != nil {
		return "", err
	}
	if err := m.checkUsers(c); err != nil {
		return "", err
	}
	if err := m.checkLabels(c.GetLinux().GetSecurityContext().GetSelinuxOptions()); err != nil {
		return "", err
	}
	if handler != "" {
		return "", fmt.Errorf("runtime handler %q is not known; the only one is the default, \"\": %w", handler, spec.ErrInvalid)
	}
	key := podKey(c)
	if err := m.creates.cancel(ctx, func(other any) bool { return lowerAttempt(other, c) }); err != nil {
		return "", err
	}
	return m.creates.join(ctx, "pod/"+key, c, flightWork{
		do: func(ctx context.Context) (string, error) {
			if id, err := m.existingPod(key, c); id != "" || err != nil {
				return id, err
			}
			if err := m.clearPod(ctx, key); err != nil {
				return "", err
			}
			return m.runPod(ctx, c)
		},
		same: func(other any) error { return samePod(other.(*runtimeapi.PodSandboxConfig), c) },
		drop: m.RemovePod,
	})
}

func (m *Manager) existingPod(key string, c *runtimeapi.PodSandboxConfig) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.podKeys[key]
	if id == "" {
		return "", nil
	}
	p := m.pods[id].pod
	if p.ReadyAt.IsZero() {
		return "", nil // in flight, or left by a flight that could not be undone
	}
	if !p.Ready() {
		return "", fmt.Errorf("pod %s exists and is not ready; remove %s or use a higher attempt: %w", key, id, ErrExists)
	}
	return id, samePod(p.Config.Of, c)
}

// clearPod takes away what an earlier try of the pod left because an undo
// failed. Its caller is the one flight of key.
func (m *Manager) clearPod(ctx context.Context, key string) error {
	m.mu.Lock()
	id := m.podKeys[key]
	m.mu.Unlock()
	if id == "" {
		return nil
	}
	if err := m.RemovePod(ctx, id); err != nil {
		return fmt.Errorf("cannot clear an earlier try: %w", err)
	}
	return nil
}

func samePod(have, want *runtimeapi.PodSandboxConfig) error {
	if field := differs(have, want); field != "" {
		return fmt.Errorf("pod %s exists with another %s: %w", podKey(want), field, ErrExists)
	}
	return nil
}

// lowerAttempt tells whether other is an earlier attempt at the pod of c.
func lowerAttempt(other any, c *runtimeapi.PodSandboxConfig) bool {
	o, ok := other.(*runtimeapi.PodSandboxConfig)
	if !ok {
		return false
	}
	a, b := o.GetMetadata(), c.GetMetadata()
	return a.GetNamespace() == b.GetNamespace() && a.GetName() == b.GetName() && a.GetUid() == b.GetUid() && a.GetAttempt() < b.GetAttempt()
}

// runPod takes a new pod up.
func (m *Manager) runPod(ctx context.Context, c *runtimeapi.PodSandboxConfig) (string, error) {
	p := &Pod{BootID: m.cfg.BootID, Config: Message[*runtimeapi.PodSandboxConfig]{c}, CreatedAt: time.Now()}
	up := &podUp{Manager: m}
	if err := up.takeAhead(p); err != nil {
		return "", err
	}
	defer up.giveAhead()
	p.CgroupParent = c.GetLinux().GetCgroupParent()
	switch {
	case p.CgroupParent == "":
		p.CgroupParent = m.ownCgroup(p.ID)
	case m.cfg.Slices:
		var err error
		if p.CgroupParent, err = cgroup.ParentSlice(p.CgroupParent); err != nil {
			return "", fmt.Errorf("%w: linux.cgroup_parent: %w", spec.ErrInvalid, err)
		}
	}
	if err := m.labelPod(p); err != nil {
		return "", fmt.Errorf("cannot run pod %s: %w", podKey(c), err)
	}
	e := &podEntry{lock: newLock(), pod: p}
	m.mu.Lock()
	m.pods[p.ID] = e
	m.podKeys[podKey(c)] = p.ID
	m.mu.Unlock()
	up.entry, up.pod = e, *p
	if err := run(waits.At(ctx, &e.stage.waits), up.steps(), atStage(&e.stage)); err != nil {
		if !leftBehind(err) {
			m.forgetPod(p) // else the retry, or reconciling, tries again
		}
		return "", fmt.Errorf("cannot run pod %s: %w", podKey(c), err)
	}
	up.up = true
	return p.ID, nil
}

// forgetPod is safe for a pod that somebody else has forgotten already: its labels
// may be another's by now.
func (m *Manager) forgetPod(p *Pod) {
	defer m.forgetUse(oci.InitID(p.ID))
	defer m.forgetUse(p.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[p.ID]
	if e == nil {
		return
	}
	m.publishPod(e.pod, nil)
	m.cfg.Labels.Drop(p.Labels)
	delete(m.pods, p.ID)
	if key := podKey(p.Config.Of); m.podKeys[key] == p.ID {
		delete(m.podKeys, key)
	}
}

// podUp is a pod on its way up. pod is what will be published at the end.
type podUp struct {
	*Manager
	entry *podEntry
	pod   Pod
	own   netns.Options     // what the pod has of its own
	later map[string]string // sysctls that need the pod's interface
	ahead *netns.Set        // made for the pod before it was asked for; nil: nothing was
	taken bool              // and its namespaces are the pod's
	up    bool              // the pod is
}

// takeAhead gives the pod its id: that of namespaces that are ready, if they will do.
func (u *podUp) takeAhead(p *Pod) error {
	sysctls, err := spec.Sysctls(p.Config.Of)
	if err != nil {
		return err
	}
	u.own = netns.Options{NoNet: p.hostNetwork(), IPC: !p.hostIPC(), UTS: !p.hostNetwork(), Hostname: p.hostname()}
	u.own.Sysctls, u.later = netns.SplitSysctls(sysctls)
	if p.ids().IsZero() {
		u.ahead = u.spaces.ahead.Take(u.own)
	}
	if p.ID = newID(); u.ahead != nil {
		p.ID = u.ahead.ID
	}
	return nil
}

// giveAhead lets go of what the pod did not take, and has more made. The pod's first
// container is next, so for a pod that came up that has time until then.
func (u *podUp) giveAhead() {
	if u.up {
		defer u.spaces.ahead.FillHalf()
	} else {
		defer u.spaces.ahead.Fill()
	}
	switch {
	case u.ahead == nil:
	case !u.taken:
		u.ahead.Close()
	case u.ahead.Link != nil:
		u.ahead.Link.Close() // it is the pod's, or it would keep the namespace alive
	}
}

// steps are what a pod consists of, in the order in which it is made.
func (u *podUp) steps() []step {
	id := u.pod.ID
	own := []step{{"write record", u.writeRecord, func(context.Context) error { return u.removePodDirs(id) }}}
	last := []step{{"publish", u.publish, nil}}
	return slices.Concat(u.faulty("pod", own), u.hostSteps(), u.faulty("pod", last))
}

// hostSteps are those that make something outside the pod's own directories:
// what StopPodSandbox undoes.
func (u *podUp) hostSteps() []step {
	id := u.pod.ID
	return u.faulty("pod", []step{
		{"write files", u.writeFiles, nil},
		{"make namespaces", u.makeNamespaces, func(context.Context) error { return u.dropNamespaces(id) }},
		{"pin network namespace", u.pin, func(context.Context) error { return netns.Unpin(u.NetNSPath(id)) }},
		{"attach network", u.attach, func(ctx context.Context) error { return u.cfg.Network.Detach(ctx, id) }},
	})
}

func (u *podUp) writeRecord(context.Context) error {
	for _, dir := range []string{u.podDir(u.pod.ID), u.podState(u.pod.ID)} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			return err
		}
	}
	return podKind.Save(u.podDir(u.pod.ID), &u.pod)
}

func (m *Manager) removePodDirs(id string) error {
	return errors.Join(os.RemoveAll(m.podState(id)), os.RemoveAll(m.podDir(id)))
}

// makeNamespaces makes what the pod does not share with the node, and gives it
// into custody: it lives as long as somebody holds it, without a process.
func (u *podUp) makeNamespaces(ctx context.Context) error {
	files, err := u.newNamespaces(ctx)
	if err != nil {
		return err
	}
	if !u.pod.hostIPC() {
		shm, err := u.newShm(&u.pod)
		if err != nil {
			closeFiles(files)
			return err
		}
		files["shm"] = shm
	}
	return u.cfg.Custody.Hold(ctx, u.pod.ID, files)
}

// newShm makes a pod's /dev/shm, of which each container gets a clone.
func (m *Manager) newShm(p *Pod) (*os.File, error) {
	uid, gid := p.ids().Root()
	shm, err := mount.Tmpfs(mount.TmpfsOptions{Size: m.policy.Load().ShmSize, Mode: 0o1777, UID: uid, GID: gid, Label: p.Labels.Mount,
		Attr: mount.Attr{NoExec: true, NoDev: true, NoSUID: true}})
	if err != nil {
		return nil, err
	}
	return mount.Hold(shm)
}

// dropNamespaces lets go of the last references, in its turn: many at a time
// would stall the network of those that come up (netns.Pacer). A daemon that dies
// before leaves it to the next one (dropCustody).
func (m *Manager) dropNamespaces(id string) error {
	m.spaces.pacer.End(func() {
		ctx, cancel := context.WithTimeout(context.Background(), undoBound)
		defer cancel()
		err := guarded(ctx, "drop namespaces", func(ctx context.Context) error {
			if err := m.fault("pod: drop namespaces"); err != nil {
				return err
			}
			return m.cfg.Custody.Release(ctx, id)
		})
		if err != nil {
			logger(id).Error("cannot drop namespaces, will try again", "err", err)
			time.AfterFunc(saveAgain, func() { m.dropNamespaces(id) })
		}
	})
	return nil
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (u *podUp) pin(context.Context) error {
	if u.pod.hostNetwork() {
		return nil
	}
	net, err := u.cfg.Custody.FD(u.pod.ID, "net")
	if err != nil {
		return err
	}
	defer net.Close()
	return netns.Pin(int(net.Fd()), u.NetNSPath(u.pod.ID))
}

func (u *podUp) link() io.Closer {
	if u.ahead == nil {
		return nil
	}
	return u.ahead.Link
}

func (u *podUp) attach(ctx context.Context) error {
	if u.pod.hostNetwork() {
		return nil
	}
	net, err := u.cfg.Custody.FD(u.pod.ID, "net")
	if err != nil {
		return err
	}
	defer net.Close()
	c := u.pod.Config.Of
	ports, err := ports(c.GetPortMappings())
	if err != nil {
		return err
	}
	limits, err := network.Limits(c.GetAnnotations())
	if err != nil {
		return fmt.Errorf("annotations: %w: %w", err, spec.ErrInvalid)
	}
	u.pod.Network, err = u.cfg.Network.Attach(ctx, network.Pod{
		ID: u.pod.ID, Namespace: c.GetMetadata().GetNamespace(), Name: c.GetMetadata().GetName(), UID: c.GetMetadata().GetUid(),
		NetNS: int(net.Fd()), NetNSPath: u.NetNSPath(u.pod.ID), Link: u.link(), Ports: ports,
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), Bandwidth: limits, CgroupParent: u.pod.CgroupParent,
		DNS: network.DNS{Servers: c.GetDnsConfig().GetServers(), Searches: c.GetDnsConfig().GetSearches(), Options: c.GetDnsConfig().GetOptions()},
	})
	if errors.Is(err, network.ErrNotReady) {
		return fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	if err != nil {
		return err
	}
	if len(u.later) > 0 {
		return netns.WriteSysctls(int(net.Fd()), u.later)
	}
	return nil
}

func ports(mappings []*runtimeapi.PortMapping) ([]network.PortMapping, error) {
	protocols := map[runtimeapi.Protocol]network.Protocol{
		runtimeapi.Protocol_TCP: network.TCP, runtimeapi.Protocol_UDP: network.UDP, runtimeapi.Protocol_SCTP: network.SCTP}
	var out []network.PortMapping
	for _, pm := range mappings {
		if pm.GetHostPort() <= 0 {
			continue
		}
		one := network.PortMapping{Protocol: protocols[pm.GetProtocol()], ContainerPort: uint16(pm.GetContainerPort()), HostPort: uint16(pm.GetHostPort())}
		if ip := pm.GetHostIp(); ip != "" {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return nil, fmt.Errorf("port_mappings: host_ip %q is no address: %w", ip, spec.ErrInvalid)
			}
			one.HostIP = addr
		}
		out = append(out, one)
	}
	return out, nil
}

// publish makes the pod ready, unless it was stopped on its way up.
func (u *podUp) publish(ctx context.Context) error {
	if err := u.entry.lock.acquire(ctx); err != nil {
		return err
	}
	defer u.entry.lock.release()
	if u.stopped() {
		return fmt.Errorf("it was stopped on its way up: %w", ErrState)
	}
	if err := u.writeHosts(); err != nil {
		return err
	}
	u.pod.ReadyAt = time.Now()
	p := u.pod
	return u.savePod(u.entry, &p)
}

func (u *podUp) stopped() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.entry.stopping
}
