package spec

import (
	"net/netip"
	"path"
	"strings"
	"unicode"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxHostname is __NEW_UTS_LEN (sethostname(2)).
const maxHostname = 64

// ValidateSandbox checks a pod's configuration by itself. The error is ErrInvalid
// and names everything that is wrong.
func ValidateSandbox(c *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config is missing")
	}
	var wrong findings
	m := c.GetMetadata()
	if m == nil {
		wrong.add("metadata is missing: it identifies the pod")
	} else {
		checkName("metadata.name", m.GetName(), &wrong)
		checkName("metadata.namespace", m.GetNamespace(), &wrong)
		checkName("metadata.uid", m.GetUid(), &wrong)
	}
	checkHostname(c.GetHostname(), &wrong)
	if d := c.GetLogDirectory(); d != "" && (!absolute(d) || hasDotDot(d)) {
		wrong.add("log_directory %q must be an absolute path without ..", d)
	}
	checkDNS(c.GetDnsConfig(), &wrong)
	for i, p := range c.GetPortMappings() {
		checkPort(i, p, &wrong)
	}
	if p := c.GetLinux().GetCgroupParent(); hasControl(p) || hasDotDot(p) {
		wrong.add("linux.cgroup_parent %q must be a path or slice without .. and control characters", p)
	}
	checkSandboxSecurity(c.GetLinux().GetSecurityContext(), &wrong)
	_, err := Sysctls(c)
	wrong.note(err)
	if c.GetWindows() != nil {
		wrong.add("windows: this node runs Linux containers")
	}
	return wrong.err()
}

func checkName(field, value string, wrong *findings) {
	if value == "" {
		wrong.add("%s is empty", field)
	} else if hasControl(value) {
		wrong.add("%s %q contains control characters", field, value)
	}
}

func checkHostname(name string, wrong *findings) {
	bad := func(r rune) bool { return r == '/' || unicode.IsSpace(r) }
	if len(name) > maxHostname || hasControl(name) || strings.ContainsFunc(name, bad) {
		wrong.add("hostname %q must be at most %d bytes without blanks and slashes", name, maxHostname)
	}
}

// checkDNS keeps a field from adding lines to resolv.conf.
func checkDNS(c *runtimeapi.DNSConfig, wrong *findings) {
	for i, s := range c.GetServers() {
		if _, err := netip.ParseAddr(s); err != nil {
			wrong.add("dns_config.servers[%d] %q is no IP address", i, s)
		}
	}
	check := func(field string, words []string) {
		for i, w := range words {
			if w == "" || strings.ContainsFunc(w, unicode.IsSpace) || hasControl(w) {
				wrong.add("dns_config.%s[%d] %q must be one word", field, i, w)
			}
		}
	}
	check("searches", c.GetSearches())
	check("options", c.GetOptions())
}

func checkPort(i int, p *runtimeapi.PortMapping, wrong *findings) {
	if _, known := runtimeapi.Protocol_name[int32(p.GetProtocol())]; !known {
		wrong.add("port_mappings[%d].protocol %d is not TCP, UDP or SCTP", i, p.GetProtocol())
	}
	if n := p.GetHostPort(); n < 0 || n > 65535 {
		wrong.add("port_mappings[%d].host_port %d is not between 0 (none) and 65535", i, n)
	}
	lowest := int32(0)
	if p.GetHostPort() > 0 {
		lowest = 1
	}
	if n := p.GetContainerPort(); n < lowest || n > 65535 {
		wrong.add("port_mappings[%d].container_port %d is not between %d and 65535", i, n, lowest)
	}
	if ip := p.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			wrong.add("port_mappings[%d].host_ip %q is no IP address", i, ip)
		}
	}
}

func checkSandboxSecurity(sc *runtimeapi.LinuxSandboxSecurityContext, wrong *findings) {
	opts := sc.GetNamespaceOptions()
	checkPodMode("network", opts.GetNetwork(), wrong)
	checkPodMode("ipc", opts.GetIpc(), wrong)
	switch opts.GetPid() {
	case runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE:
	default:
		wrong.add("linux.security_context.namespace_options.pid %s is not POD, CONTAINER or NODE, which a pod can have", opts.GetPid())
	}
	checkUserNamespace(opts.GetUsernsOptions(), wrong)
	checkIDs(idFields{sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups()}, wrong)
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		wrong.add("linux.security_context.run_as_group %d needs run_as_user beside it", sc.GetRunAsGroup().GetValue())
	}
	checkPolicy(sc.GetSupplementalGroupsPolicy(), wrong)
	_, _, err := seccompProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath())
	wrong.note(err)
	checkAppArmor(sc.GetApparmor(), "", wrong)
}

func checkPodMode(field string, mode runtimeapi.NamespaceMode, wrong *findings) {
	if mode != runtimeapi.NamespaceMode_POD && mode != runtimeapi.NamespaceMode_NODE {
		wrong.add("linux.security_context.namespace_options.%s %s is not POD or NODE", field, mode)
	}
}

type idFields struct {
	user, group *runtimeapi.Int64Value
	groups      []int64
}

func checkIDs(f idFields, wrong *findings) {
	check := func(field string, id int64) {
		if id < 0 || id > maxID {
			wrong.add("linux.security_context.%s %d is not between 0 and %d", field, id, uint32(maxID))
		}
	}
	if f.user != nil {
		check("run_as_user", f.user.GetValue())
	}
	if f.group != nil {
		check("run_as_group", f.group.GetValue())
	}
	for _, g := range f.groups {
		check("supplemental_groups", g)
	}
}

func checkPolicy(p runtimeapi.SupplementalGroupsPolicy, wrong *findings) {
	if _, known := runtimeapi.SupplementalGroupsPolicy_name[int32(p)]; !known {
		wrong.add("linux.security_context.supplemental_groups_policy %d is not Merge or Strict", p)
	}
}

func checkAppArmor(p *runtimeapi.SecurityProfile, deprecated string, wrong *findings) {
	if p == nil {
		switch {
		case deprecated == "", deprecated == "runtime/default", deprecated == "unconfined":
		case strings.HasPrefix(deprecated, "localhost/") && deprecated != "localhost/":
		default:
			wrong.add("linux.security_context.apparmor_profile %q is not runtime/default, unconfined or localhost/<name>", deprecated)
		}
		return
	}
	local := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost
	if _, known := runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())]; !known {
		wrong.add("linux.security_context.apparmor.profile_type %d is not RuntimeDefault, Unconfined or Localhost", p.GetProfileType())
	} else if local != (p.GetLocalhostRef() != "") {
		wrong.add("linux.security_context.apparmor.localhost_ref %q: it belongs to profile_type Localhost, and only there", p.GetLocalhostRef())
	}
}

// LogPath returns the log file of a container: log_path below log_directory. It
// is empty if either is, which means that nobody wants a log.
func LogPath(pod *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	if pod.GetLogDirectory() == "" || c.GetLogPath() == "" {
		return ""
	}
	return path.Join(pod.GetLogDirectory(), c.GetLogPath())
}
