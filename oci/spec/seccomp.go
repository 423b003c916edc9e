package spec

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxProfile bounds a Localhost profile, in bytes.
const maxProfile = 1 << 20

// Seccomp says which profile a container asks for: the profile type and, for
// Localhost, the absolute path of the file that the caller reads into
// Input.SeccompProfile. The seccomp field wins over the deprecated
// seccomp_profile_path; without both, and for a privileged container, it is
// Unconfined.
func Seccomp(sc *runtimeapi.LinuxContainerSecurityContext) (runtimeapi.SecurityProfile_ProfileType, string, error) {
	if sc.GetPrivileged() {
		return runtimeapi.SecurityProfile_Unconfined, "", nil
	}
	return seccompProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath())
}

func seccompProfile(p *runtimeapi.SecurityProfile, deprecated string) (runtimeapi.SecurityProfile_ProfileType, string, error) {
	const none = runtimeapi.SecurityProfile_Unconfined
	if p == nil {
		return deprecatedProfile(deprecated)
	}
	switch t := p.GetProfileType(); t {
	case runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			return none, "", invalid("linux.security_context.seccomp.localhost_ref %q needs profile_type Localhost", p.GetLocalhostRef())
		}
		return t, "", nil
	case runtimeapi.SecurityProfile_Localhost:
		if !absolute(p.GetLocalhostRef()) {
			return none, "", invalid("linux.security_context.seccomp.localhost_ref %q must be an absolute path", p.GetLocalhostRef())
		}
		return t, p.GetLocalhostRef(), nil
	default:
		return none, "", invalid("linux.security_context.seccomp.profile_type %d is not RuntimeDefault, Unconfined or Localhost", t)
	}
}

func deprecatedProfile(name string) (runtimeapi.SecurityProfile_ProfileType, string, error) {
	file, local := strings.CutPrefix(name, "localhost/")
	switch {
	case name == "" || name == "unconfined":
		return runtimeapi.SecurityProfile_Unconfined, "", nil
	case name == "runtime/default" || name == "docker/default":
		return runtimeapi.SecurityProfile_RuntimeDefault, "", nil
	case local && absolute(file):
		return runtimeapi.SecurityProfile_Localhost, file, nil
	}
	return runtimeapi.SecurityProfile_Unconfined, "", invalid("linux.security_context.seccomp_profile_path %q is not runtime/default, unconfined or localhost/<absolute path>", name)
}

func seccomp(in Input, bounding []string) (*specs.LinuxSeccomp, error) {
	kind, ref, err := Seccomp(in.security())
	if err != nil {
		return nil, err
	}
	switch kind {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		return resolveProfile(moby.DefaultProfile(), in.Host, bounding)
	case runtimeapi.SecurityProfile_Localhost:
		profile, err := parseProfile(in.SeccompProfile)
		if err == nil {
			var out *specs.LinuxSeccomp
			if out, err = resolveProfile(profile, in.Host, bounding); err == nil {
				return out, nil
			}
		}
		return nil, invalid("seccomp profile %s: %v", ref, err)
	}
	return nil, nil
}

// parseProfile reads a profile in the runtime-spec's form or in Docker's, which
// adds archMap and conditions.
func parseProfile(data []byte) (*moby.Seccomp, error) {
	if len(data) == 0 {
		return nil, errors.New("is empty")
	}
	if len(data) > maxProfile {
		return nil, errors.New("is larger than 1 MiB")
	}
	var p moby.Seccomp
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	return &p, checkProfile(&p)
}

// resolveProfile is what the profile means on host for a container with that
// bounding set: conditions decided, archMap replaced by the host's part of it.
func resolveProfile(p *moby.Seccomp, host Host, bounding []string) (*specs.LinuxSeccomp, error) {
	arch, known := scmpArch[host.Arch]
	if !known {
		return nil, errors.New("no seccomp architecture for " + host.Arch)
	}
	out := p.LinuxSeccomp
	out.Architectures = slices.Clone(out.Architectures)
	for _, a := range p.ArchMap {
		if a.Arch == arch {
			out.Architectures = append(append(out.Architectures, a.Arch), a.SubArches...)
		}
	}
	out.Syscalls = nil
	for _, call := range p.Syscalls {
		if !applies(call, host, bounding) {
			continue
		}
		rule := call.LinuxSyscall
		if call.Name != "" {
			rule.Names = []string{call.Name}
		}
		out.Syscalls = append(out.Syscalls, rule)
	}
	return &out, nil
}

// scmpArch maps GOARCH to libseccomp's constants, for the architectures built.
var scmpArch = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}

// applies decides a rule's conditions: all of includes must hold, none of
// excludes may. In a list of architectures one match is enough, of capabilities
// includes wants all and excludes any.
func applies(call *moby.Syscall, host Host, bounding []string) bool {
	has := func(c string) bool { return slices.Contains(bounding, c) }
	if f := call.Excludes; f != nil {
		if slices.Contains(f.Arches, host.Arch) || slices.ContainsFunc(f.Caps, has) {
			return false
		}
		if f.MinKernel != nil && host.Kernel.atLeast(*f.MinKernel) {
			return false
		}
	}
	if f := call.Includes; f != nil {
		if len(f.Arches) > 0 && !slices.Contains(f.Arches, host.Arch) {
			return false
		}
		if slices.ContainsFunc(f.Caps, func(c string) bool { return !has(c) }) {
			return false
		}
		if f.MinKernel != nil && !host.Kernel.atLeast(*f.MinKernel) {
			return false
		}
	}
	return true
}

func (k Kernel) atLeast(v moby.KernelVersion) bool {
	major, minor := uint64(k.Major), uint64(k.Minor)
	return major > v.Kernel || major == v.Kernel && minor >= v.Major
}
