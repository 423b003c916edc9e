package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/program"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// tracer names who made a span.
const tracer = "github.com/cri-box/cri-box"

// prepared is everything that Start hands over. It owns its descriptors.
type prepared struct {
	program *program.Program
	fds     map[string]*os.File // what the program uses
	keep    map[string]*os.File // what the keeper takes into custody
}

func (p *prepared) close() {
	for _, f := range p.fds {
		f.Close()
	}
	for _, f := range p.keep {
		f.Close()
	}
}

// Rootfs mounts the bundle's layers with a writable one of its own on top,
// attached nowhere. The mount is the caller's.
func (r *Runtime) Rootfs(b Bundle) (*os.File, error) {
	dir := r.containerRoot(b.ID)
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make root file system: %w", err)
		}
		if b.IDs.IsZero() {
			continue
		}
		if err := os.Chown(d, b.owner().UID, b.owner().GID); err != nil {
			return nil, fmt.Errorf("cannot give root file system to the pod: %w", err)
		}
	}
	if r.projects {
		if err := startProject(upper, work); err != nil {
			return nil, err
		}
	}
	users, err := r.users(b)
	if err != nil {
		return nil, err
	}
	defer users.Close() // of nil too
	// What a container wrote need not survive a power cut: the container does not.
	return mount.Overlay(b.Lowers, upper, work, mount.OverlayOptions{Volatile: true, Users: users, Label: b.MountLabel})
}

// Prepare makes everything that Start needs, so that Start is little more than
// one clone. rootfs becomes the runtime's; nil stands for Rootfs(b).
func (r *Runtime) Prepare(ctx context.Context, b Bundle, rootfs *os.File) error {
	if rootfs == nil {
		var err error
		if rootfs, err = r.Rootfs(b); err != nil {
			return err
		}
	}
	m := &maker{Runtime: r, bundle: b, spec: b.Spec, out: &prepared{fds: map[string]*os.File{"rootfs": rootfs}, keep: map[string]*os.File{}}}
	made := false
	defer func() {
		if !made { // also after a panic: files that nobody closes stay until the garbage is collected
			m.out.close()
		}
	}()
	if err := m.make(ctx); err != nil {
		return err
	}
	made = true
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.prepared[b.ID]; old != nil {
		old.close()
	}
	r.prepared[b.ID] = m.out
	return nil
}

func (m *maker) give(name string, f *os.File) { m.out.fds[name] = f }

// makeCgroup makes the container's group, or takes the one of an earlier try. It
// touches nothing else of the maker, which goes on meanwhile.
func (m *maker) makeCgroup(ctx context.Context) error {
	m.mu.Lock()
	m.group = m.groups[m.bundle.ID]
	m.mu.Unlock()
	if m.group != nil {
		return nil
	}
	group, err := m.Cgroups.Create(ctx, m.spec.Linux.CgroupsPath, m.spec.Linux.Resources)
	if err != nil {
		return err
	}
	m.group = group
	m.mu.Lock()
	m.groups[m.bundle.ID] = group
	m.mu.Unlock()
	return nil
}

// openCgroup gives what the child needs of the group: descriptors to join it by,
// and its view of it.
func (m *maker) openCgroup(context.Context) (err error) {
	m.input.CgroupV2, m.input.TasksFDs, err = joinGroup(m.group, m.out.fds)
	if err != nil {
		return err
	}
	m.input.UnshareCgroup = len(m.input.TasksFDs) > 0
	for i, mt := range m.mounts {
		if mt.Type != "cgroup" {
			continue
		}
		view, err := m.makeCgroupView()
		if err != nil {
			return err
		}
		if view != nil {
			m.give(fmt.Sprintf("mount.%d", i), view)
		}
	}
	own, slice, err := m.group.KillCounters()
	if own != nil {
		m.out.keep[keeper.FDKills], m.out.keep[keeper.FDSliceKills] = own, slice
	}
	return err
}

// joinGroup puts what a child needs to join the group into fds.
func joinGroup(group *cgroup.Cgroup, fds map[string]*os.File) (v2 string, tasks []string, err error) {
	if dir := group.UnifiedDir(); dir != nil {
		f, err := dup(dir)
		if err != nil {
			return "", nil, err
		}
		v2, fds["cgroup.v2"] = "cgroup.v2", f
	}
	files, err := group.TasksFDs()
	if err != nil {
		return "", nil, err
	}
	for i, f := range files {
		name := fmt.Sprintf("tasks.%d", i)
		fds[name] = f
		tasks = append(tasks, name)
	}
	return v2, tasks, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openNamespaces takes those to join out of custody.
func (m *maker) openNamespaces(ctx context.Context) error {
	names := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.UserNamespace: "user"}
	nowhere, err := mount.Nowhere()
	if err != nil {
		return err
	}
	m.give("ns.mnt", nowhere)
	for _, ns := range m.spec.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		var f *os.File
		var err error
		if ns.Type == specs.PIDNamespace {
			m.input.ProcDonated = !mount.Detect().ProcOf
			f, err = m.pidNamespace(ctx)
		} else {
			f, err = m.Keeper.FD(m.bundle.PodID, names[ns.Type])
		}
		if err != nil {
			return err
		}
		m.give("ns."+shortName(ns.Type), f)
	}
	return nil
}

func shortName(t specs.LinuxNamespaceType) string {
	if t == specs.NetworkNamespace {
		return "net"
	}
	return string(t)
}

// pidNamespace is the target's, or that of the pod's init.
func (m *maker) pidNamespace(ctx context.Context) (*os.File, error) {
	id := m.bundle.Target
	if id == "" {
		if err := m.startInit(ctx, m.bundle.PodID, m.bundle.InitCgroup); err != nil {
			return nil, err
		}
		id = InitID(m.bundle.PodID)
	}
	pidfd, err := m.Keeper.FD(id, keeper.FDPid)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	return pidNamespaceOf(pidfd)
}

// makeMounts gives every mount of the spec that is not made by the child.
func (m *maker) makeMounts(ctx context.Context) error {
	m.mounts = slices.Clone(m.spec.Mounts)
	volumes, err := m.openVolumes(ctx)
	if err != nil {
		return err
	}
	for i := range m.mounts {
		f := volumes[i]
		if f == nil {
			if f, err = m.makeMount(i); err != nil {
				closeFrom(volumes, i+1)
				return err
			}
		}
		if f == nil {
			continue // cgroup: openCgroup; proc, sysfs, mqueue: made by the child
		}
		m.give(fmt.Sprintf("mount.%d", i), f)
		if t := m.mounts[i].Type; t == "bind" || t == "proc" {
			if err := m.finishBind(ctx, i, f); err != nil {
				closeFrom(volumes, i+1)
				return err
			}
		}
	}
	return nil
}

func closeFrom(volumes map[int]*os.File, from int) {
	for i, f := range volumes {
		if i >= from {
			f.Close()
		}
	}
}

// finishBind labels a bind mount's files, maps its ids, sets its attributes and notes whether it is a file.
func (m *maker) finishBind(ctx context.Context, i int, f *os.File) error {
	if m.bundle.Relabel[m.mounts[i].Destination] {
		if err := m.relabel(ctx, m.mounts[i], f); err != nil {
			return err
		}
	}
	if _, image := m.bundle.Images[m.mounts[i].Source]; !image { // whose layers are mapped
		if err := m.mapVolume(ctx, m.mounts[i], f); err != nil {
			return err
		}
	}
	attr, err := attributes(m.mounts[i].Options)
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", m.mounts[i].Destination, err)
	}
	if err := mount.SetAttr(f, attr); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", m.mounts[i].Source, m.mounts[i].Destination, err)
	}
	var st unix.Statx_t // from the cache: the file system may be dead
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return fmt.Errorf("cannot mount %s: %w", m.mounts[i].Source, os.NewSyscallError("statx", err))
	}
	m.input.FileMounts[i] = st.Mode&unix.S_IFMT != unix.S_IFDIR
	return nil
}

func attributes(options []string) (mount.Attr, error) {
	var a mount.Attr
	set := map[string]func(){
		"ro": func() { a.ReadOnly = true }, "rro": func() { a.ReadOnly, a.RecursiveReadOnly = true, true },
		"noexec": func() { a.NoExec = true }, "nodev": func() { a.NoDev = true }, "nosuid": func() { a.NoSUID = true },
		"rprivate": func() { a.Propagation = mount.Private }, "private": func() { a.Propagation = mount.Private },
		"rslave": func() { a.Propagation = mount.Slave }, "rshared": func() { a.Propagation = mount.Shared },
		"rw": func() {}, "rbind": func() {}, "bind": func() {},
	}
	for _, o := range options {
		f := set[o]
		if f == nil {
			return a, fmt.Errorf("option %q is not known", o)
		}
		f()
	}
	return a, nil
}

// makeMount makes a mount whose content is our own.
func (m *maker) makeMount(i int) (*os.File, error) {
	mt, owner, label := m.mounts[i], m.bundle.owner(), m.bundle.MountLabel
	switch mt.Type {
	case "bind":
		if v, ok := m.bundle.Images[mt.Source]; ok {
			return m.openImage(v)
		}
		if path.Base(mt.Source) == "shm" && strings.HasPrefix(mt.Source, m.StateDir) {
			shm, err := m.Keeper.FD(m.bundle.PodID, "shm")
			if err != nil {
				return nil, err
			}
			defer shm.Close()
			return mount.Clone(shm, false)
		}
		return mount.BindOwn(mt.Source)
	case "tmpfs":
		if mt.Destination == "/dev" {
			if len(m.spec.Linux.Devices) == 0 && m.bundle.IDs.IsZero() && label == "" {
				return m.spares.dev.take()
			}
			return mount.Dev(m.spec.Linux.Devices, mount.DevOptions{UID: owner.UID, GID: owner.GID, Label: label})
		}
		return mount.Tmpfs(mount.TmpfsOptions{Mode: 0o755, UID: owner.UID, GID: owner.GID, Label: label})
	case "devpts":
		return mount.Devpts(terminalGroup(m.bundle.IDs), label)
	case "proc":
		if m.input.ProcDonated {
			return m.donatedProc()
		}
	}
	return nil, nil
}

// makeCgroupView is the container's /sys/fs/cgroup: on v1 a tmpfs with a
// directory for each controller's bind mount; on v2 the child mounts it, or it is
// the node's, as /proc/<pid>/cgroup shows it to a container without a cgroup
// namespace.
func (m *maker) makeCgroupView() (*os.File, error) {
	views := m.group.Views()
	switch {
	case len(views) == 0:
		return nil, nil
	case views[0].Name == "" && hasNamespace(m.spec, specs.CgroupNamespace):
		return nil, nil
	case views[0].Name == "":
		return mount.BindOwn(m.Cgroups.Views("/")[0].Dir)
	}
	dir, err := mount.Tmpfs(mount.TmpfsOptions{Mode: 0o755, Attr: mount.Attr{NoExec: true, NoDev: true, NoSUID: true}})
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if err := m.addView(v); err != nil {
			dir.Close()
			return nil, err
		}
	}
	return dir, nil
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// addView gives one hierarchy's directory; the child makes its place, and makes it
// read-only unless the container is privileged.
func (m *maker) addView(v cgroup.View) error {
	f, err := mount.BindOwn(v.Dir)
	if err != nil {
		return err
	}
	name := "cgroup." + v.Name
	m.give(name, f)
	m.input.CgroupMounts = append(m.input.CgroupMounts, name)
	return mount.SetAttr(f, mount.Attr{NoExec: true, NoDev: true, NoSUID: true})
}

// makePoints makes what the mounts cover in the root file system. What lies
// below another mount is there already or made by the child.
func (m *maker) makePoints(context.Context) error {
	root := m.out.fds["rootfs"]
	for i := range m.mounts {
		dst := m.mounts[i].Destination
		if m.below(i) {
			continue
		}
		if m.mounts[i].Type != "bind" {
			if err := mount.MakePlainPoint(root, dst, m.bundle.owner()); err != nil {
				return err
			}
			continue
		}
		real, err := mount.MakePoint(root, dst, !m.input.FileMounts[i], m.bundle.owner())
		if err != nil {
			return err
		}
		m.mounts[i].Destination = real
	}
	cwd := m.spec.Process.Cwd
	if slices.ContainsFunc(m.mounts, func(mt specs.Mount) bool { return within(cwd, mt.Destination) }) {
		return nil
	}
	return mount.MkdirIn(root, cwd, 0o755, m.bundle.owner().UID, m.bundle.owner().GID)
}

// below tells whether an earlier mount covers the destination of mount i.
func (m *maker) below(i int) bool {
	return slices.ContainsFunc(m.mounts[:i], func(mt specs.Mount) bool { return within(m.mounts[i].Destination, mt.Destination) })
}

func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// makeMasks gives what covers the paths that the container shall not see.
func (m *maker) makeMasks(context.Context) error {
	if len(m.spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	dir, err := m.spares.maskDir.take()
	if err != nil {
		return err
	}
	m.give("mask.dir", dir)
	null, err := m.spares.maskFile.take()
	if err != nil {
		return err
	}
	m.give("mask.file", null)
	return nil
}

// sealRoot makes the root file system read-only, now that it has everything.
func (m *maker) sealRoot(context.Context) error {
	if m.spec.Root == nil || !m.spec.Root.Readonly {
		return nil
	}
	return mount.SetAttr(m.out.fds["rootfs"], mount.Attr{ReadOnly: true})
}

func (m *maker) compile(context.Context) error {
	filter, err := m.filters.compile(m.spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	m.spec.Linux.Seccomp = m.filters.share(m.spec.Linux.Seccomp)
	m.shapes.share(m.spec)
	s := *m.spec
	s.Mounts = m.mounts
	m.input.Spec, m.input.Filter, m.input.LastCap = &s, filter, lastCap()
	if err := m.saveInput(); err != nil {
		return err
	}
	m.out.program, err = program.Container(m.input)
	return err
}

var errNoBundle = errors.New("its spec is missing")
