// Package spec turns a CRI request into a runtime-spec.
//
//	CRI request + image config + facts ──Container──▶ specs.Spec ──Exec──▶ specs.Process
//
// Everything here is a pure function: no file is opened, no clock or kernel is
// asked, and what it depends on stands in Input. Golden files under testdata hold
// input and expected spec side by side. What a request may not ask for is refused
// with ErrInvalid and the name of the CRI field.
package spec

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that one container's spec depends on. Nothing in it is changed,
// and the spec shares no memory with it that a caller could reach by writing to
// the spec's slices.
type Input struct {
	ID        string // the container's id
	SandboxID string // its pod's id

	Sandbox *runtimeapi.PodSandboxConfig
	Config  *runtimeapi.ContainerConfig
	Image   ocispec.ImageConfig

	// Passwd and Group are the image's /etc/passwd and /etc/group, read with a
	// limit by the caller; empty where the image has none.
	Passwd []byte
	Group  []byte

	Labels     Labels
	Namespaces Namespaces
	CgroupPath string // linux.cgroupsPath, as the cgroup driver writes it
	Files      Files

	// Devices are Config's devices after the caller looked them up on the host;
	// a directory of devices has become one entry each.
	Devices []Device
	// SeccompProfile is the JSON of the Localhost profile that Seccomp names.
	SeccompProfile []byte

	Host     Host
	Defaults Defaults
}

// Labels are the container's SELinux labels, "" for none.
type Labels struct{ Process, Mount string }

// NodeNamespace in a field of Namespaces asks for the node's own namespace.
const NodeNamespace = "node"

// Namespaces says, for each kind that a pod may share, where the container lives:
// an absolute path to join, or NodeNamespace. An empty PID asks for a new
// namespace; the others have to be given. Mount and cgroup namespaces are always
// the container's own, except that a privileged container sees the node's cgroups.
type Namespaces struct {
	Network string
	IPC     string
	UTS     string
	PID     string
	// User is the name of the pod's user namespace; used only if it has one.
	User string
}

// Files are the host's side of the mounts that the pod brings along.
type Files struct {
	// Hosts, Hostname and ResolvConf are files; an empty one is not mounted.
	Hosts      string
	Hostname   string
	ResolvConf string
	// Shm is the pod's shared memory; not used with the node's IPC namespace.
	Shm string
	// Volumes maps each destination that Volumes returned to a host directory.
	Volumes map[string]string
	// Images maps the container_path of each image mount to its host directory.
	Images map[string]string
}

// rootPath is the spec's root.path. The rootfs is a descriptor that the caller
// holds, so the path only fills the field that the runtime-spec requires.
const rootPath = "rootfs"

// Container returns the runtime-spec of one container. The request is expected to
// have passed ValidateSandbox and ValidateContainer; what only the image or the
// host decides is checked here, and refused with ErrInvalid.
func Container(in Input) (*specs.Spec, error) {
	process, err := process(in)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(in)
	if err != nil {
		return nil, err
	}
	linux, err := linux(in, process.Capabilities, mounts)
	if err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: rootPath, Readonly: in.security().GetReadonlyRootfs()},
		Hostname:    hostname(in),
		Mounts:      mounts,
		Annotations: annotations(in),
		Linux:       linux,
	}, nil
}

func linux(in Input, caps *specs.LinuxCapabilities, mounts []specs.Mount) (*specs.Linux, error) {
	namespaces, err := namespaces(in)
	if err != nil {
		return nil, err
	}
	resources, err := Resources(in.Config.GetLinux().GetResources(), in.Host)
	if err != nil {
		return nil, err
	}
	resources.Devices = deviceRules(in)
	if in.Defaults.PidsLimit > 0 {
		limit := in.Defaults.PidsLimit
		resources.Pids = &specs.LinuxPids{Limit: &limit}
	}
	seccomp, err := seccomp(in, caps.Bounding)
	if err != nil {
		return nil, err
	}
	l := &specs.Linux{
		CgroupsPath:       in.CgroupPath,
		Namespaces:        namespaces,
		Resources:         resources,
		Devices:           devices(in, mounts),
		Seccomp:           seccomp,
		MountLabel:        in.Labels.Mount,
		RootfsPropagation: rootfsPropagation(in.Config.GetMounts()),
	}
	ids := SandboxIDs(in.Sandbox)
	l.UIDMappings, l.GIDMappings = ids.UIDs, ids.GIDs
	if !in.privileged() {
		l.MaskedPaths = cleanAll(in.security().GetMaskedPaths())
		l.ReadonlyPaths = cleanAll(in.security().GetReadonlyPaths())
	}
	return l, nil
}

// namespaces lists what is joined (with a path) and what is new (without); a kind
// that is missing stays the node's (runtime-spec, config-linux, Namespaces).
func namespaces(in Input) ([]specs.LinuxNamespace, error) {
	ns := in.Namespaces
	var list []specs.LinuxNamespace
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		path string
	}{
		{specs.NetworkNamespace, ns.Network},
		{specs.IPCNamespace, ns.IPC},
		{specs.UTSNamespace, ns.UTS},
		{specs.PIDNamespace, ns.PID},
	} {
		switch {
		case n.path == NodeNamespace:
			continue
		case n.path == "" && n.kind != specs.PIDNamespace:
			return nil, fmt.Errorf("cannot make spec of container %s: no %s namespace of pod %s given", in.ID, n.kind, in.SandboxID)
		}
		list = append(list, specs.LinuxNamespace{Type: n.kind, Path: n.path})
	}
	if !SandboxIDs(in.Sandbox).IsZero() {
		if ns.User == "" {
			return nil, fmt.Errorf("cannot make spec of container %s: no user namespace of pod %s given", in.ID, in.SandboxID)
		}
		list = append(list, specs.LinuxNamespace{Type: specs.UserNamespace, Path: ns.User})
	}
	list = append(list, specs.LinuxNamespace{Type: specs.MountNamespace})
	// A privileged container manages the node, whose cgroups it finds by the
	// paths in /proc/<pid>/cgroup (KEP-2254, cgroup namespace).
	if !in.privileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list, nil
}

// hostname is empty in the node's UTS namespace, where it must not be set.
func hostname(in Input) string {
	if in.Namespaces.UTS == NodeNamespace {
		return ""
	}
	return in.Sandbox.GetHostname()
}

// annotations are what other OCI runtimes and tools look for; nothing that a
// request or an image carries in its own annotations or labels passes through.
func annotations(in Input) map[string]string {
	pod := in.Sandbox.GetMetadata()
	return map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    in.Config.GetMetadata().GetName(),
		"io.kubernetes.cri.image-name":        in.Config.GetImage().GetImage(),
		"io.kubernetes.cri.sandbox-id":        in.SandboxID,
		"io.kubernetes.cri.sandbox-name":      pod.GetName(),
		"io.kubernetes.cri.sandbox-namespace": pod.GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":       pod.GetUid(),
	}
}

func (in Input) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.Config.GetLinux().GetSecurityContext()
}

func (in Input) privileged() bool { return in.security().GetPrivileged() }
