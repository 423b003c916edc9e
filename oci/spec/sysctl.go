package spec

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ipcSysctls are those of ipc_namespaces(7). Other kernel.* are the node's.
var ipcSysctls = []string{
	"kernel.msg_next_id", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",
	"kernel.sem", "kernel.sem_next_id",
	"kernel.shm_next_id", "kernel.shm_rmid_forced", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
}

// defaultSysctls let a process that is not root serve port 80 and send pings.
var defaultSysctls = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

// maxSysctl bounds a value; the kernel reads about a page in one write.
const maxSysctl = 4095

var (
	// Each part starts with a letter or digit: no part is "..", none is empty.
	sysctlKey   = regexp.MustCompile(`^[a-zA-Z0-9][-_a-zA-Z0-9]*([./][a-zA-Z0-9][-_a-zA-Z0-9]*)+$`)
	sysctlValue = regexp.MustCompile(`^[-_a-zA-Z0-9 \t,.:]*$`)
)

// Sysctls returns what is to be set in a pod's namespaces: the defaults, unless
// the network is the node's, and the request over them. Keys have the form in
// which '.' separates and '/' stands for a dot in a name (sysctl(8)); SysctlPath
// turns one into a path. A sysctl that is not of a namespace, or of one that is
// the node's (CVE-2022-0532), and every byte that neither name nor number needs
// (CVE-2022-0811) is ErrInvalid.
func Sysctls(c *runtimeapi.PodSandboxConfig) (map[string]string, error) {
	opts := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	hostNetwork := opts.GetNetwork() == runtimeapi.NamespaceMode_NODE
	hostIPC := opts.GetIpc() == runtimeapi.NamespaceMode_NODE
	set := map[string]string{}
	if !hostNetwork {
		maps.Copy(set, defaultSysctls)
	}
	var wrong findings
	given := map[string]string{}
	for _, raw := range slices.Sorted(maps.Keys(c.GetLinux().GetSysctls())) {
		key, value := sysctlName(raw), c.GetLinux().GetSysctls()[raw]
		kind := sysctlNamespace(key)
		switch {
		case !sysctlKey.MatchString(raw):
			wrong.add("linux.sysctls: %q is no name such as net.core.somaxconn", raw)
		case len(value) > maxSysctl || !sysctlValue.MatchString(value):
			wrong.add("linux.sysctls[%q]: value %.40q is longer than %d bytes or has other characters than letters, digits, blanks and , . : - _", raw, value, maxSysctl)
		case kind == "":
			wrong.add("linux.sysctls: %q is not of a namespace of the pod; net.*, fs.mqueue.* and %s are", raw, strings.Join(ipcSysctls, ", "))
		case kind == "network" && hostNetwork, kind == "ipc" && hostIPC:
			wrong.add("linux.sysctls: %q would change the node, whose %s namespace the pod uses", raw, kind)
		case given[key] != "":
			wrong.add("linux.sysctls: %q and %q are the same", given[key], raw)
		default:
			given[key] = raw
			set[key] = value
		}
	}
	return set, wrong.err()
}

func sysctlNamespace(key string) string {
	switch {
	case strings.HasPrefix(key, "net."):
		return "network"
	case strings.HasPrefix(key, "fs.mqueue."), slices.Contains(ipcSysctls, key):
		return "ipc"
	}
	return ""
}

// sysctlName brings a name written as a path, net/ipv4/conf/eth0.5/forwarding,
// into the form with dots: the first separator tells which one it is.
func sysctlName(raw string) string {
	if i := strings.IndexAny(raw, "./"); i < 0 || raw[i] == '.' {
		return raw
	}
	return swapSeparators(raw)
}

// SysctlPath returns the path of a key from Sysctls, relative to /proc/sys.
func SysctlPath(key string) string { return swapSeparators(key) }

func swapSeparators(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, s)
}
