package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts lists, in the order in which they are made, the kernel's file systems
// and then the pod's files, image volumes and CRI mounts, parents first. A CRI
// mount takes the place of what would stand at or, for the kernel's, below it.
func mounts(in Input) ([]specs.Mount, error) {
	asked, err := criMounts(in)
	if err != nil {
		return nil, err
	}
	var list []specs.Mount
	for _, m := range kernelMounts(in) {
		covered := func(a specs.Mount) bool { return within(m.Destination, a.Destination) }
		if slices.ContainsFunc(asked, covered) {
			continue
		}
		if m.Source == "" {
			return nil, fmt.Errorf("cannot make spec of container %s: no shared memory of pod %s given", in.ID, in.SandboxID)
		}
		list = append(list, m)
	}
	var binds []specs.Mount
	for _, m := range slices.Concat(podFiles(in), volumeMounts(in)) {
		same := func(a specs.Mount) bool { return m.Destination == a.Destination }
		if !slices.ContainsFunc(asked, same) {
			binds = append(binds, m)
		}
	}
	binds = append(binds, asked...)
	slices.SortStableFunc(binds, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return append(list, binds...), nil
}

func kernelMounts(in Input) []specs.Mount {
	sys := "ro"
	if in.privileged() {
		sys = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc",
			Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		// Group 5 is tty in every distribution; grantpt(3) expects it.
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue",
			Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs",
			Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", sys}},
		{Destination: "/dev/shm", Type: "bind", Source: shm(in),
			Options: []string{"rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"}},
	}
}

func shm(in Input) string {
	if in.Namespaces.IPC == NodeNamespace {
		return "/dev/shm"
	}
	return in.Files.Shm
}

func podFiles(in Input) []specs.Mount {
	mode := "rw"
	if in.security().GetReadonlyRootfs() {
		mode = "ro"
	}
	var list []specs.Mount
	for _, f := range []struct{ destination, source string }{
		{"/etc/hosts", in.Files.Hosts},
		{"/etc/hostname", in.Files.Hostname},
		{"/etc/resolv.conf", in.Files.ResolvConf},
	} {
		if f.source != "" {
			list = append(list, bind(f.destination, f.source, "rprivate", mode))
		}
	}
	return list
}

func volumeMounts(in Input) []specs.Mount {
	var list []specs.Mount
	for _, dst := range slices.Sorted(maps.Keys(in.Files.Volumes)) {
		list = append(list, bind(dst, in.Files.Volumes[dst], "rprivate", "rw"))
	}
	return list
}

// Volumes returns the VOLUMEs of an image that need a host directory, clean and
// sorted: those that no CRI mount replaces and that do not reach into /proc, /sys
// or /dev, which an image must not shape (CVE-2023-27561).
func Volumes(c *runtimeapi.ContainerConfig, image ocispec.ImageConfig) []string {
	replaced := map[string]bool{"/": true}
	for _, m := range c.GetMounts() {
		replaced[path.Clean(m.GetContainerPath())] = true
	}
	set := map[string]bool{}
	for v := range image.Volumes {
		dst := path.Clean("/" + v)
		kernel := within(dst, "/proc") || within(dst, "/sys") || within(dst, "/dev")
		if !replaced[dst] && !kernel && !hasControl(dst) {
			set[dst] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func criMounts(in Input) ([]specs.Mount, error) {
	var list []specs.Mount
	for i, m := range in.Config.GetMounts() {
		source := m.GetHostPath()
		if m.GetImage() != nil {
			if source = in.Files.Images[m.GetContainerPath()]; source == "" {
				return nil, invalid("mounts[%d].image %q: image volumes are not supported yet; use host_path", i, m.GetImage().GetImage())
			}
		}
		if m.GetRecursiveReadOnly() && !in.Host.RecursiveReadOnly {
			return nil, invalid("mounts[%d].recursive_read_only needs Linux 5.12 on the node; use readonly alone", i)
		}
		options := append([]string{propagation(m.GetPropagation()), access(m)}, m.GetMountOptions()...)
		mt := bind(path.Clean(m.GetContainerPath()), source, options...)
		mt.UIDMappings, mt.GIDMappings = mappings(m.GetUidMappings()), mappings(m.GetGidMappings())
		list = append(list, mt)
	}
	return list, nil
}

func bind(destination, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source,
		Options: append([]string{"rbind"}, options...)}
}

func access(m *runtimeapi.Mount) string {
	switch {
	case m.GetRecursiveReadOnly():
		return "rro"
	case m.GetReadonly(), m.GetImage() != nil:
		return "ro"
	}
	return "rw"
}

func propagation(p runtimeapi.MountPropagation) string {
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	}
	return "rprivate"
}

// rootfsPropagation is the widest that a mount asks for: a private parent would
// cut what passes between its mounts and the host.
func rootfsPropagation(mounts []*runtimeapi.Mount) string {
	widest := runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	for _, m := range mounts {
		widest = max(widest, m.GetPropagation())
	}
	return propagation(widest)
}
