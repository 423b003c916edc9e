package spec

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ValidateContainer checks a container's configuration by itself and against its
// pod's. The error is ErrInvalid and names everything that is wrong.
func ValidateContainer(c *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config is missing")
	}
	var wrong findings
	if c.GetMetadata() == nil {
		wrong.add("metadata is missing: it identifies the container")
	} else {
		checkName("metadata.name", c.GetMetadata().GetName(), &wrong)
	}
	if c.GetImage().GetImage() == "" {
		wrong.add("image.image is empty")
	}
	if h := c.GetImage().GetRuntimeHandler(); h != "" {
		wrong.add("image.runtime_handler %q is not known", h)
	}
	if p := c.GetLogPath(); p != "" && (!filepath.IsLocal(p) || path.Clean(p) == "." || hasDotDot(p) || hasControl(p)) {
		wrong.add("log_path %q must be a file below log_directory: relative and without ..", p)
	}
	checkProcess(c, &wrong)
	users := pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	checkContainerUsers(c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(), users, &wrong)
	for i, m := range c.GetMounts() {
		checkMount(i, m, &wrong)
		checkMountMappings(i, m, users, &wrong)
	}
	for i, d := range c.GetDevices() {
		checkDevice(i, d, &wrong)
	}
	wrong.note(checkResources(c.GetLinux().GetResources()))
	checkContainerSecurity(c.GetLinux().GetSecurityContext(), pod.GetLinux().GetSecurityContext(), &wrong)
	checkUnsupported(c, &wrong)
	return wrong.err()
}

func checkProcess(c *runtimeapi.ContainerConfig, wrong *findings) {
	for i, e := range c.GetEnvs() {
		if e.GetKey() == "" || hasNUL(e.GetKey()) || strings.Contains(e.GetKey(), "=") {
			wrong.add("envs[%d].key %q must be a name without =", i, e.GetKey())
		}
		if slices.Contains(e.GetValue(), 0) {
			wrong.add("envs[%d].value of %q contains a NUL byte, which execve(2) cannot pass", i, e.GetKey())
		}
	}
	for i, a := range c.GetCommand() {
		if hasNUL(a) {
			wrong.add("command[%d] contains a NUL byte, which execve(2) cannot pass", i)
		}
	}
	for i, a := range c.GetArgs() {
		if hasNUL(a) {
			wrong.add("args[%d] contains a NUL byte, which execve(2) cannot pass", i)
		}
	}
	if d := c.GetWorkingDir(); d != "" && !absolute(d) {
		wrong.add("working_dir %q must be an absolute path", d)
	}
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		_, err := criSignalNumber(s)
		wrong.note(err)
	}
}

// procFiles are what LXCFS and the like put over /proc. Elsewhere below /proc a
// mount could redirect the runtime's own writes (CVE-2019-19921, CVE-2025-52881).
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo",
	"/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/net/dev",
	"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

func checkMount(i int, m *runtimeapi.Mount, wrong *findings) {
	add := func(format string, args ...any) {
		wrong.add("mounts[%d]."+format, append([]any{i}, args...)...)
	}
	dst := path.Clean(m.GetContainerPath())
	switch {
	case !absolute(m.GetContainerPath()) || dst == "/":
		add("container_path %q must be an absolute path other than /", m.GetContainerPath())
	case dst == "/proc" && path.Clean(m.GetHostPath()) != "/proc",
		within(dst, "/proc") && dst != "/proc" && !slices.Contains(procFiles, dst):
		add("container_path %q lies in /proc, where only the host's /proc and files such as /proc/meminfo may be mounted", m.GetContainerPath())
	}
	checkMountSource(m, add)
	if _, known := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !known {
		add("propagation %d is not PRIVATE, HOST_TO_CONTAINER or BIDIRECTIONAL", m.GetPropagation())
	}
	private := m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	if m.GetRecursiveReadOnly() && (!m.GetReadonly() || !private) {
		add("recursive_read_only needs readonly and propagation PRIVATE")
	}
	for j, o := range m.GetMountOptions() {
		if !slices.Contains([]string{"noexec", "nodev", "nosuid"}, o) {
			add("mount_options[%d] %q is not noexec, nodev or nosuid", j, o)
		}
	}
}

func checkMountSource(m *runtimeapi.Mount, add func(format string, args ...any)) {
	if m.GetImage() == nil {
		if !absolute(m.GetHostPath()) {
			add("host_path %q must be an absolute path", m.GetHostPath())
		}
		if m.GetImageSubPath() != "" {
			add("image_sub_path %q needs image beside it", m.GetImageSubPath())
		}
		return
	}
	switch {
	case m.GetImage().GetImage() == "":
		add("image.image is empty")
	case m.GetHostPath() != "":
		add("host_path %q and image exclude each other", m.GetHostPath())
	case !m.GetReadonly():
		add("readonly must be true: an image is mounted for reading only")
	case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		add("propagation must be PRIVATE for an image")
	}
	if p := m.GetImageSubPath(); p != "" && (!filepath.IsLocal(p) || hasNUL(p)) {
		add("image_sub_path %q must be a path inside the image", p)
	}
}

func checkDevice(i int, d *runtimeapi.Device, wrong *findings) {
	if !absolute(d.GetHostPath()) {
		wrong.add("devices[%d].host_path %q must be an absolute path", i, d.GetHostPath())
	}
	if !absolute(d.GetContainerPath()) || path.Clean(d.GetContainerPath()) == "/" {
		wrong.add("devices[%d].container_path %q must be an absolute path other than /", i, d.GetContainerPath())
	}
	if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" {
		wrong.add("devices[%d].permissions %q must be one or more of r, w and m", i, p)
	}
}

func checkContainerSecurity(sc *runtimeapi.LinuxContainerSecurityContext, pod *runtimeapi.LinuxSandboxSecurityContext, wrong *findings) {
	const at = "linux.security_context."
	if sc.GetPrivileged() && !pod.GetPrivileged() {
		wrong.add(at + "privileged needs a pod whose linux.security_context.privileged is true")
	}
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		wrong.add(at+"run_as_user %d and run_as_username %q exclude each other", sc.GetRunAsUser().GetValue(), sc.GetRunAsUsername())
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		wrong.add(at+"run_as_group %d needs run_as_user or run_as_username beside it", sc.GetRunAsGroup().GetValue())
	}
	checkIDs(idFields{sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups()}, wrong)
	checkPolicy(sc.GetSupplementalGroupsPolicy(), wrong)
	checkNamespaces(sc.GetNamespaceOptions(), pod.GetNamespaceOptions(), wrong)
	_, err := parseCapabilities(sc.GetCapabilities())
	wrong.note(err)
	_, _, err = seccompProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath())
	wrong.note(err)
	checkAppArmor(sc.GetApparmor(), sc.GetApparmorProfile(), wrong)
	checkPaths(at+"masked_paths", sc.GetMaskedPaths(), wrong)
	checkPaths(at+"readonly_paths", sc.GetReadonlyPaths(), wrong)
}

// checkNamespaces lets a container have the node's namespaces only where its pod
// has them. POD, the zero value, is right in every pod: crictl leaves it so.
func checkNamespaces(opts, pod *runtimeapi.NamespaceOption, wrong *findings) {
	const at = "linux.security_context.namespace_options."
	checkPodMode("network", opts.GetNetwork(), wrong)
	checkPodMode("ipc", opts.GetIpc(), wrong)
	for _, n := range []struct {
		field     string
		mode, pod runtimeapi.NamespaceMode
	}{
		{"network", opts.GetNetwork(), pod.GetNetwork()},
		{"ipc", opts.GetIpc(), pod.GetIpc()},
		{"pid", opts.GetPid(), pod.GetPid()},
	} {
		if n.mode == runtimeapi.NamespaceMode_NODE && n.pod != runtimeapi.NamespaceMode_NODE {
			wrong.add(at+"%s NODE needs a pod with %s NODE", n.field, n.field)
		}
	}
	if _, known := runtimeapi.NamespaceMode_name[int32(opts.GetPid())]; !known {
		wrong.add(at+"pid %d is not POD, CONTAINER, NODE or TARGET", opts.GetPid())
	}
	if opts.GetPid() == runtimeapi.NamespaceMode_TARGET && opts.GetTargetId() == "" {
		wrong.add(at + "target_id is empty: pid TARGET needs the id of a container of the pod")
	}
}

func checkPaths(field string, paths []string, wrong *findings) {
	for i, p := range paths {
		if !absolute(p) || path.Clean(p) == "/" {
			wrong.add("%s[%d] %q must be an absolute path other than /", field, i, p)
		}
	}
}
