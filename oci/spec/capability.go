package spec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilityNames are the kernel's capabilities; the index is the number
// (linux/capability.h).
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities are what every container runtime gives, by number.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
	"CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
}

// CapabilityNames turns a mask, as CapBnd in /proc/self/status, into names in the
// order of their numbers.
func CapabilityNames(mask uint64) []string {
	var names []string
	for n, name := range capabilityNames {
		if mask&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// CapabilityNumber returns a capability's number, which is its bit in a mask.
func CapabilityNumber(name string) (int, bool) {
	n := slices.Index(capabilityNames, name)
	return n, n >= 0
}

type capabilitySet map[string]bool

// capabilities returns the five sets. They are those of a process of uid 0: at
// the execve(2) of any other the kernel clears effective and permitted but for the
// ambient ones (capabilities(7)), and the bounding set stays, as under runc.
// Inheritable is empty but for the ambient ones (CVE-2022-29162).
func capabilities(in Input) (*specs.LinuxCapabilities, error) {
	set, ambient, err := capabilitySets(in)
	if err != nil {
		return nil, err
	}
	// What the daemon itself lacks cannot be given (capset(2), EPERM).
	host := capabilitySet{}
	host.add(in.Host.Capabilities)
	names := set.names(host)
	raised := ambient.names(host)
	return &specs.LinuxCapabilities{
		Bounding:    names,
		Effective:   slices.Clone(names),
		Permitted:   slices.Clone(names),
		Inheritable: raised,
		Ambient:     slices.Clone(raised),
	}, nil
}

func capabilitySets(in Input) (set, ambient capabilitySet, err error) {
	req, err := parseCapabilities(in.security().GetCapabilities())
	if err != nil {
		return nil, nil, err
	}
	set = capabilitySet{}
	switch {
	case in.privileged(), req.addAll && !req.dropAll:
		set.add(capabilityNames)
	case !req.dropAll:
		set.add(in.Defaults.Capabilities)
	}
	if !in.privileged() {
		set.add(req.add)
		set.drop(req.drop)
	}
	ambient = capabilitySet{}
	ambient.add(req.ambient)
	// An ambient capability has to be permitted and inheritable (prctl(2),
	// PR_CAP_AMBIENT_RAISE), and the latter within the bounding set.
	set.add(req.ambient)
	return set, ambient, nil
}

type capabilityRequest struct {
	addAll, dropAll    bool
	add, drop, ambient []string
}

// parseCapabilities takes names with or without CAP_, in any case, and ALL. The
// order of effect is: ALL added, ALL dropped, the names added, the names dropped.
func parseCapabilities(c *runtimeapi.Capability) (capabilityRequest, error) {
	var r capabilityRequest
	var wrong findings
	r.add, r.addAll = parseNames("add_capabilities", c.GetAddCapabilities(), &wrong)
	r.drop, r.dropAll = parseNames("drop_capabilities", c.GetDropCapabilities(), &wrong)
	var ambientAll bool
	r.ambient, ambientAll = parseNames("add_ambient_capabilities", c.GetAddAmbientCapabilities(), &wrong)
	if ambientAll {
		r.ambient = slices.Clone(capabilityNames)
	}
	for _, name := range r.ambient {
		if slices.Contains(r.drop, name) {
			wrong.add("linux.security_context.capabilities: %s is both in add_ambient_capabilities and in drop_capabilities", name)
		}
	}
	return r, wrong.err()
}

func parseNames(field string, list []string, wrong *findings) (names []string, all bool) {
	for i, s := range list {
		name := strings.ToUpper(s)
		if name == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if _, known := CapabilityNumber(name); !known {
			wrong.add("linux.security_context.capabilities.%s[%d] %q is no capability; capabilities(7) lists them, with or without CAP_", field, i, s)
			continue
		}
		names = append(names, name)
	}
	return names, all
}

func (s capabilitySet) add(names []string) {
	for _, n := range names {
		s[n] = true
	}
}

func (s capabilitySet) drop(names []string) {
	for _, n := range names {
		delete(s, n)
	}
}

// names lists the set within limit by number, so that equal sets give equal specs.
func (s capabilitySet) names(limit capabilitySet) []string {
	var names []string
	for _, n := range capabilityNames {
		if s[n] && limit[n] {
			names = append(names, n)
		}
	}
	return names
}
