package spec

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// refuseLater names what a request asks for and cri-box does not do yet. A
// request that would silently run with less than it asked for is refused.
func refuseLater(in Input) error {
	var wrong findings
	sc := in.security()
	if kind, ref := apparmorProfile(sc); !sc.GetPrivileged() {
		switch {
		case kind == runtimeapi.SecurityProfile_Localhost:
			wrong.add("linux.security_context.apparmor %q: AppArmor profiles are not supported yet", ref)
		case kind == runtimeapi.SecurityProfile_RuntimeDefault && in.Host.AppArmor:
			wrong.add("linux.security_context.apparmor RuntimeDefault: AppArmor is active on this node and profiles are not supported yet; use Unconfined")
		}
	}
	return wrong.err()
}

// apparmorProfile reads apparmor or, without it, the deprecated field; neither
// means Unconfined here.
func apparmorProfile(sc *runtimeapi.LinuxContainerSecurityContext) (runtimeapi.SecurityProfile_ProfileType, string) {
	if p := sc.GetApparmor(); p != nil {
		return p.GetProfileType(), p.GetLocalhostRef()
	}
	ref, local := strings.CutPrefix(sc.GetApparmorProfile(), "localhost/")
	switch {
	case local:
		return runtimeapi.SecurityProfile_Localhost, ref
	case sc.GetApparmorProfile() == "runtime/default":
		return runtimeapi.SecurityProfile_RuntimeDefault, ""
	}
	return runtimeapi.SecurityProfile_Unconfined, ""
}

// checkUnsupported is the part that no host changes.
func checkUnsupported(c *runtimeapi.ContainerConfig, wrong *findings) {
	sc := c.GetLinux().GetSecurityContext()
	checkSELinux(sc.GetSelinuxOptions(), wrong)
	for i, d := range c.GetCDIDevices() {
		wrong.add("CDI_devices[%d] %q: CDI devices are not supported yet", i, d.GetName())
	}
	if c.GetWindows() != nil {
		wrong.add("windows: this node runs Linux containers")
	}
}

func checkSELinux(o *runtimeapi.SELinuxOption, wrong *findings) {
	if o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != "" {
		wrong.add("linux.security_context.selinux_options: SELinux labels are not supported yet")
	}
}
