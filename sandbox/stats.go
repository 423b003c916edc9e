package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/cgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerUse is what a container uses.
type ContainerUse struct {
	*Container
	// Cgroup is nil if there is no group any more.
	Cgroup *cgroup.Stats
	// NanoCores is the processor time per second, in nanoseconds, since the
	// previous sample.
	NanoCores uint64
	// Disk is nil until the layer was walked for the first time.
	Disk *oci.DiskUse
}

// PodUse is what a pod uses.
type PodUse struct {
	*Pod
	// Cgroup is the pod's group, nil if there is none: before the first container,
	// and after the end.
	Cgroup    *cgroup.Stats
	NanoCores uint64
	// Network is nil on the node's network and after the pod's end.
	Network    *NetworkUse
	Processes  uint64
	Containers []ContainerUse
}

// NetworkUse is what went through a pod's interfaces.
type NetworkUse struct {
	At         time.Time
	Interfaces []netns.Interface
}

// ContainerUse measures a container now, but for its disk use, which is as old as
// it says. What cannot be measured is left out with the error.
func (m *Manager) ContainerUse(c *Container) (ContainerUse, error) {
	u := ContainerUse{Container: c, Disk: m.disks.use(c.ID)}
	st, err := m.cfg.Cgroups.Stats(c.ID, m.cgroupOf(c))
	m.forgetGone(c.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return u, nil
	case err != nil:
		return u, fmt.Errorf("cannot measure container %s: %w", c.ID, err)
	}
	u.Cgroup = &st
	u.NanoCores = m.rates.nanoCores(c.ID, c.CreatedAt, st.Time, st.CPU.Usage)
	return u, nil
}

// ContainerDetail is what a container uses, with what only metrics ask for.
type ContainerDetail struct {
	ContainerUse
	Detail cgroup.Detail
	Files  oci.OpenFiles
}

// ContainerDetail adds the rest to a measurement of a container that runs.
func (m *Manager) ContainerDetail(u ContainerUse) (ContainerDetail, error) {
	d := ContainerDetail{ContainerUse: u}
	var counted, files error
	d.Detail, counted = m.cfg.Cgroups.Detail(u.ID, m.cgroupOf(u.Container))
	d.Files, files = m.cfg.Cgroups.OpenFiles(u.ID, m.cgroupOf(u.Container))
	m.forgetGone(u.ID)
	if err := errors.Join(counted, files); err != nil {
		return d, fmt.Errorf("cannot measure container %s: %w", u.ID, err)
	}
	return d, nil
}

// forgetGone drops what a measurement kept of an object that was removed at the
// same time.
func (m *Manager) forgetGone(id string) {
	m.mu.Lock()
	p, c := m.pods[id], m.containers[id]
	gone := c == nil && (p == nil || !p.pod.Ready())
	m.mu.Unlock()
	if gone {
		m.forgetUse(id)
	}
}

func (m *Manager) forgetUse(id string) {
	m.cfg.Cgroups.Forget(id)
	m.disks.forget(id)
	m.rates.forget(id)
}

// WritableUse adds up the writable layers of all containers; at is the age of the
// oldest number in it. A layer that was never walked is not in it yet.
func (m *Manager) WritableUse() (bytes, inodes uint64, at time.Time) {
	at = time.Now()
	for _, c := range m.List().Containers {
		u := m.disks.use(c.ID)
		if u == nil {
			continue
		}
		bytes, inodes = bytes+u.Bytes, inodes+u.Inodes
		if u.At.Before(at) {
			at = u.At
		}
	}
	return bytes, inodes, at
}

// A Meter measures pods. It has a thread that enters their network namespaces,
// and is used by one goroutine, which closes it.
type Meter struct {
	m       *Manager
	counter *netns.Counter
}

// NewMeter makes one.
func (m *Manager) NewMeter() *Meter { return &Meter{m: m} }

// Close ends the thread.
func (x *Meter) Close() {
	if x.counter != nil {
		x.counter.Close()
	}
}

// Pod measures a pod and its containers, as ContainerUse does.
func (x *Meter) Pod(p *Pod) (PodUse, error) {
	u := PodUse{Pod: p}
	var errs []error
	for c := range x.m.List().In(p.ID) {
		cu, err := x.m.ContainerUse(c)
		errs = append(errs, err)
		u.Containers = append(u.Containers, cu)
		if cu.Cgroup != nil {
			u.Processes += cu.Cgroup.Processes
		}
	}
	if p.Ready() {
		errs = append(errs, x.group(&u), x.network(&u))
		x.m.forgetGone(p.ID)
	}
	if err := errors.Join(errs...); err != nil {
		return u, fmt.Errorf("cannot measure pod %s: %w", p.ID, err)
	}
	return u, nil
}

// group reads the pod's own group, and counts the processes that are in no
// container: those in the group itself and the init of a shared PID namespace.
func (x *Meter) group(u *PodUse) error {
	groups := x.m.cfg.Cgroups
	st, err := groups.Stats(u.ID, u.CgroupParent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	u.Cgroup, u.Processes = &st, u.Processes+st.Processes
	u.NanoCores = x.m.rates.nanoCores(u.ID, u.CreatedAt, st.Time, st.CPU.Usage)
	if u.namespaces().Pid == runtimeapi.NamespaceMode_POD {
		init, err := groups.Stats(oci.InitID(u.ID), cgroupPath(u.CgroupParent, oci.InitID(u.ID)))
		if err == nil {
			u.Processes += init.Processes
		}
	}
	return nil
}

func (x *Meter) network(u *PodUse) error {
	if u.hostNetwork() {
		return nil
	}
	net, err := x.m.cfg.Custody.FD(u.ID, "net")
	if err != nil {
		return nil // it is being taken down
	}
	defer net.Close()
	if x.counter == nil {
		x.counter = netns.NewCounter()
	}
	n := &NetworkUse{At: time.Now()}
	if n.Interfaces, err = x.counter.Interfaces(int(net.Fd())); err != nil {
		return err
	}
	u.Network = n
	return nil
}
