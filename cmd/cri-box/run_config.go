package main

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cpuPeriod is the kernel's own period of cpu limits in microseconds.
const cpuPeriod = 100_000

// configs are the CRI's configurations for what the command line asks. logs is
// the pod's log directory.
func (o *runOptions) configs(logs string) (*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig, error) {
	if o.name != filepath.Base(o.name) || o.name == "." || o.name == ".." {
		return nil, nil, fmt.Errorf("cannot use the name %q: it must not have / in it", o.name)
	}
	namespaces, err := o.namespaceOption()
	if err != nil {
		return nil, nil, err
	}
	labels := map[string]string{runLabel: o.name}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: o.name, Namespace: runNamespace, Uid: o.name},
		LogDirectory: logs,
		Labels:       labels,
		Annotations:  map[string]string{runOnce: rand.Text()},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces, Privileged: o.privileged}},
	}
	if o.namespaces.users {
		o.mapUsers(namespaces)
	}
	if namespaces.Network == runtimeapi.NamespaceMode_POD {
		pod.Hostname = o.name
	}
	if pod.PortMappings, err = parseAll(o.ports, parsePort); err != nil {
		return nil, nil, err
	}
	container := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: o.name},
		Image:      &runtimeapi.ImageSpec{Image: o.image},
		Args:       o.command,
		WorkingDir: o.workdir,
		Labels:     labels,
		LogPath:    "log",
		Stdin:      o.stdin,
		StdinOnce:  o.stdin,
		Tty:        o.tty,
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: namespaces, Privileged: o.privileged}},
	}
	if container.Mounts, err = parseAll(o.volumes, parseVolume); err != nil {
		return nil, nil, err
	}
	for _, m := range container.Mounts {
		m.UidMappings, m.GidMappings = namespaces.GetUsernsOptions().GetUids(), namespaces.GetUsernsOptions().GetGids()
	}
	if container.Envs, err = parseAll(o.vars, parseVar); err != nil {
		return nil, nil, err
	}
	if container.Linux.Resources, err = o.resources(); err != nil {
		return nil, nil, err
	}
	if !o.privileged {
		confine(container.Linux.SecurityContext)
	}
	return pod, container, o.setUser(container.Linux.SecurityContext)
}

// confine gives a container what the kubelet gives one with seccompProfile
// RuntimeDefault and procMount Default: what of /proc and /sys is the node's is
// hidden or read-only.
func confine(s *runtimeapi.LinuxContainerSecurityContext) {
	s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	s.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	s.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for _, text := range texts {
		v, err := parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (o *runOptions) namespaceOption() (*runtimeapi.NamespaceOption, error) {
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	switch o.namespaces.network {
	case "pod":
	case "host":
		n.Network = runtimeapi.NamespaceMode_NODE
	default:
		return nil, fmt.Errorf("cannot use the network %q: it is pod or host", o.namespaces.network)
	}
	switch o.namespaces.pid {
	case "container":
	case "host":
		n.Pid = runtimeapi.NamespaceMode_NODE
	default:
		return nil, fmt.Errorf("cannot use the PID namespace %q: it is container or host", o.namespaces.pid)
	}
	return n, nil
}

// mapUsers asks for a user namespace of 65536 ids; which of the host's is a
// function of the name, so that pods seldom share any. The first 2^20 are left to
// the host.
func (o *runOptions) mapUsers(n *runtimeapi.NamespaceOption) {
	const length, first, ranges = 1 << 16, 16, 1 << 14
	h := fnv.New32a()
	h.Write([]byte(o.name))
	ids := []*runtimeapi.IDMapping{{HostId: (first + h.Sum32()%ranges) * length, Length: length}}
	n.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// parsePort reads [IP:]HOST:CONTAINER[/PROTOCOL]; an IPv6 address is in brackets.
func parsePort(text string) (*runtimeapi.PortMapping, error) {
	wrong := fmt.Errorf("cannot publish %q: write [IP:]HOST:CONTAINER, then /udp or /sctp if it is not TCP", text)
	ports, protocol, ok := strings.Cut(text, "/")
	p := &runtimeapi.PortMapping{}
	if ok {
		number, known := runtimeapi.Protocol_value[strings.ToUpper(protocol)]
		if !known {
			return nil, wrong
		}
		p.Protocol = runtimeapi.Protocol(number)
	}
	at := strings.LastIndexByte(ports, ':')
	if at < 0 {
		return nil, wrong
	}
	host, inside := ports[:at], ports[at+1:]
	if at := strings.LastIndexByte(host, ':'); at >= 0 {
		ip, err := netip.ParseAddr(strings.Trim(host[:at], "[]"))
		if err != nil {
			return nil, wrong
		}
		p.HostIp, host = ip.String(), host[at+1:]
	}
	var err error
	if p.HostPort, err = parsePortNumber(host); err != nil {
		return nil, wrong
	}
	if p.ContainerPort, err = parsePortNumber(inside); err != nil {
		return nil, wrong
	}
	return p, nil
}

func parsePortNumber(text string) (int32, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return int32(n), err
}

func parseVolume(text string) (*runtimeapi.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !filepath.IsAbs(parts[1]) || len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw" {
		return nil, fmt.Errorf("cannot mount %q: write SOURCE:TARGET or SOURCE:TARGET:ro, TARGET absolute", text)
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return nil, fmt.Errorf("cannot mount %q: %w", text, err)
	}
	return &runtimeapi.Mount{HostPath: source, ContainerPath: parts[1], Readonly: len(parts) == 3 && parts[2] == "ro"}, nil
}

func parseVar(text string) (*runtimeapi.KeyValue, error) {
	name, value, ok := strings.Cut(text, "=")
	if name == "" {
		return nil, fmt.Errorf("cannot set %q: write NAME=VALUE", text)
	}
	if !ok {
		value = os.Getenv(name)
	}
	return &runtimeapi.KeyValue{Key: name, Value: []byte(value)}, nil
}

func (o *runOptions) resources() (*runtimeapi.LinuxContainerResources, error) {
	r := &runtimeapi.LinuxContainerResources{}
	if o.limits.memory != "" {
		var size config.Size
		if err := size.UnmarshalText([]byte(o.limits.memory)); err != nil {
			return nil, fmt.Errorf("cannot limit memory: %w", err)
		}
		r.MemoryLimitInBytes = int64(size)
	}
	if o.limits.cpus < 0 || o.limits.cpus > 0 && o.limits.cpus < 0.01 || math.IsNaN(o.limits.cpus) || o.limits.cpus > 100_000 {
		return nil, fmt.Errorf("cannot limit to %v processors: 0.01 is the least", o.limits.cpus)
	}
	if o.limits.cpus > 0 {
		r.CpuPeriod, r.CpuQuota = cpuPeriod, int64(o.limits.cpus*cpuPeriod)
	}
	return r, nil
}

func (o *runOptions) setUser(s *runtimeapi.LinuxContainerSecurityContext) error {
	if o.user == "" {
		return nil
	}
	user, group, ok := strings.Cut(o.user, ":")
	if ok {
		gid, err := strconv.ParseUint(group, 10, 31)
		if err != nil {
			return fmt.Errorf("cannot use the group %q: give its number", group)
		}
		s.RunAsGroup = &runtimeapi.Int64Value{Value: int64(gid)}
	}
	if uid, err := strconv.ParseUint(user, 10, 31); err == nil {
		s.RunAsUser = &runtimeapi.Int64Value{Value: int64(uid)}
		return nil
	}
	s.RunAsUsername = user
	return nil
}
