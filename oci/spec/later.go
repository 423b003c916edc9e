package spec

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DefaultAppArmor names the profile for RuntimeDefault.
const DefaultAppArmor = "cri-box-default"

// AppArmor returns the profile that a request asks for, "" for none. A request
// that names none has the default where the kernel has AppArmor; asked says that it
// names one. A privileged container has none.
func AppArmor(sc *runtimeapi.LinuxContainerSecurityContext, active bool) (profile string, asked bool, err error) {
	kind, ref := apparmorProfile(sc)
	switch {
	case sc.GetPrivileged(), kind == runtimeapi.SecurityProfile_Unconfined:
		return "", false, nil
	case kind == runtimeapi.SecurityProfile_Localhost && !active:
		return "", true, invalid("linux.security_context.apparmor %q: AppArmor is not active on this node", ref)
	case kind == runtimeapi.SecurityProfile_Localhost:
		return ref, true, nil
	case !active:
		return "", false, nil
	}
	return DefaultAppArmor, sc.GetApparmor() != nil || sc.GetApparmorProfile() != "", nil
}

// apparmorProfile reads apparmor or, without it, the deprecated field. Both may
// write a name with "localhost/" before it.
func apparmorProfile(sc *runtimeapi.LinuxContainerSecurityContext) (runtimeapi.SecurityProfile_ProfileType, string) {
	if p := sc.GetApparmor(); p != nil {
		return p.GetProfileType(), strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
	}
	ref, local := strings.CutPrefix(sc.GetApparmorProfile(), "localhost/")
	switch {
	case local:
		return runtimeapi.SecurityProfile_Localhost, ref
	case sc.GetApparmorProfile() == "unconfined":
		return runtimeapi.SecurityProfile_Unconfined, ""
	}
	return runtimeapi.SecurityProfile_RuntimeDefault, ""
}

// checkUnsupported is the part that no host changes.
func checkUnsupported(c *runtimeapi.ContainerConfig, wrong *findings) {
	for i, d := range c.GetCDIDevices() {
		wrong.add("CDI_devices[%d] %q: CDI devices are not supported yet", i, d.GetName())
	}
	if c.GetWindows() != nil {
		wrong.add("windows: this node runs Linux containers")
	}
}
