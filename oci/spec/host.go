package spec

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Host is what the node can do, found out once by the daemon.
type Host struct {
	Arch     string // GOARCH
	Kernel   Kernel
	Hostname string

	CgroupV2          bool // limits are set on cgroup v2
	Swap              bool // the memory controller accounts swap
	AppArmor          bool // the kernel enforces AppArmor
	RecursiveReadOnly bool // mount_setattr(2) takes AT_RECURSIVE, Linux 5.12

	// NoUserNamespaces says why pods cannot have user namespaces, "" if they can.
	NoUserNamespaces string

	// HugePageSizes are the sizes the hugetlb controller limits, such as "2MB".
	HugePageSizes []string
	// Capabilities are those the daemon may give away, as CapabilityNames writes
	// them: "all" of a privileged container, and a bound on every other.
	Capabilities []string
	// Devices are the nodes below /dev at this moment; read for privileged
	// containers only.
	Devices []specs.LinuxDevice
	// MinOOMScoreAdj is the lowest oom_score_adj the daemon may set: -1000 with
	// CAP_SYS_RESOURCE, else the daemon's own value (proc(5)).
	MinOOMScoreAdj int
	// HardLimits are the daemon's own hard limits where it may not raise them
	// (no CAP_SYS_RESOURCE, setrlimit(2)), by names such as RLIMIT_NOFILE.
	HardLimits map[string]uint64
}

// Kernel is a kernel's version, which the conditions in seccomp profiles name.
type Kernel struct{ Major, Minor int }

// Defaults are what the administrator may change and a request does not say.
type Defaults struct {
	Capabilities []string // of a container that is not privileged
	Path         string   // PATH where neither image nor request sets it
	Ulimits      []specs.POSIXRlimit
	PidsLimit    int64 // 0: none
}

// Device is a device node for the container and what its cgroup allows with it.
type Device struct {
	Node        specs.LinuxDevice
	Permissions string // one or more of r, w and m
}

// defaultNofile holds what systemd gives a service: soft 1024, so that select(2)
// and programs that walk all descriptors work, and a hard limit that those which
// need more raise themselves to.
var defaultNofile = specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}

// NewDefaults returns the defaults of a node without configuration.
func NewDefaults() Defaults {
	return Defaults{
		Capabilities: slices.Clone(defaultCapabilities),
		Path:         "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		Ulimits:      []specs.POSIXRlimit{defaultNofile},
	}
}
