package spec

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSeccompProfileType(t *testing.T) {
	const (
		standard   = runtimeapi.SecurityProfile_RuntimeDefault
		unconfined = runtimeapi.SecurityProfile_Unconfined
		local      = runtimeapi.SecurityProfile_Localhost
	)
	for _, c := range []struct {
		name string
		sc   *security
		kind runtimeapi.SecurityProfile_ProfileType
		ref  string
	}{
		{"nil", nil, unconfined, ""},
		{"nothing", &security{}, unconfined, ""},
		{"default", &security{Seccomp: &runtimeapi.SecurityProfile{}}, standard, ""},
		{"unconfined over old", &security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: unconfined}, SeccompProfilePath: "runtime/default"}, unconfined, ""},
		{"localhost", &security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: local, LocalhostRef: "/p"}}, local, "/p"},
		{"privileged", &security{Seccomp: &runtimeapi.SecurityProfile{}, Privileged: true}, unconfined, ""},
		{"old default", &security{SeccompProfilePath: "runtime/default"}, standard, ""},
		{"older default", &security{SeccompProfilePath: "docker/default"}, standard, ""},
		{"old unconfined", &security{SeccompProfilePath: "unconfined"}, unconfined, ""},
		{"old localhost", &security{SeccompProfilePath: "localhost//p"}, local, "/p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, ref, err := Seccomp(c.sc)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "kind", kind, c.kind)
			equal(t, "ref", ref, c.ref)
		})
	}
	for _, c := range []struct {
		sc   *security
		says []string
	}{
		{&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: local}}, []string{"localhost_ref", "absolute"}},
		{&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: local, LocalhostRef: "p"}}, []string{"localhost_ref", `"p"`}},
		{&security{Seccomp: &runtimeapi.SecurityProfile{LocalhostRef: "/p"}}, []string{"localhost_ref", "Localhost"}},
		{&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: 3}}, []string{"profile_type 3"}},
		{&security{SeccompProfilePath: "localhost/p"}, []string{"seccomp_profile_path", `"localhost/p"`}},
		{&security{SeccompProfilePath: "default"}, []string{"seccomp_profile_path", "runtime/default"}},
	} {
		in := testInput()
		in.Config.Linux.SecurityContext = c.sc
		_, err := Container(in)
		wantInvalid(t, err, c.says...)
	}
}

func TestBadProfiles(t *testing.T) {
	for _, c := range []struct{ name, json, says string }{
		{"empty", ``, "is empty"},
		{"too large", `{"x":"` + strings.Repeat("x", maxProfile) + `"}`, "larger than 1 MiB"},
		{"no JSON", `{`, "unexpected end"},
		{"wrong type", `{"defaultAction": 1}`, "defaultAction"},
		{"no default", `{}`, "defaultAction is missing"},
		{"unknown default", `{"defaultAction": "ALLOW"}`, `defaultAction "ALLOW"`},
		{"notify", `{"defaultAction": "SCMP_ACT_NOTIFY"}`, "SCMP_ACT_NOTIFY is not supported"},
		{"listener", `{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}`, "listenerPath"},
		{"errno", `{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`, "4096"},
		{"both architectures", `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}`, "exclude each other"},
		{"null rule", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [null]}`, "syscalls[0]: is null"},
		{"no names", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}`, "syscalls[0]: names is empty"},
		{"two kinds of names", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"]}]}`, "exclude each other"},
		{"no action", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a"}]}`, `action ""`},
		{"bad index", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "args": [{"index": 6}]}]}`, "args[0].index 6"},
		{"bad operator", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "args": [{"op": "=="}]}]}`, `args[0].op "=="`},
		{"bad version", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "includes": {"minKernel": "x"}}]}`, "kernel version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testInput()
			in.SeccompProfile = []byte(c.json)
			in.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/profiles/p.json"}
			_, err := Container(in)
			wantInvalid(t, err, "seccomp profile /profiles/p.json", c.says)
		})
	}
}

func TestUnknownArchitecture(t *testing.T) {
	in := testInput()
	in.Host.Arch = "vax"
	in.sc().Seccomp = &runtimeapi.SecurityProfile{}
	if _, err := Container(in); err == nil || !strings.Contains(err.Error(), "vax") {
		t.Errorf("error is %v", err)
	}
}

func TestConditions(t *testing.T) {
	host := Host{Arch: "amd64", Kernel: Kernel{5, 10}}
	caps := []string{"CAP_KILL", "CAP_CHOWN"}
	version := func(major, minor uint64) *moby.KernelVersion { return &moby.KernelVersion{Kernel: major, Major: minor} }
	for _, c := range []struct {
		name               string
		includes, excludes *moby.Filter
		want               bool
	}{
		{"none", nil, nil, true},
		{"this arch", &moby.Filter{Arches: []string{"arm64", "amd64"}}, nil, true},
		{"other arch", &moby.Filter{Arches: []string{"arm64"}}, nil, false},
		{"all caps", &moby.Filter{Caps: caps}, nil, true},
		{"one cap missing", &moby.Filter{Caps: []string{"CAP_KILL", "CAP_BPF"}}, nil, false},
		{"same kernel", &moby.Filter{MinKernel: version(5, 10)}, nil, true},
		{"newer minor", &moby.Filter{MinKernel: version(5, 11)}, nil, false},
		{"newer major", &moby.Filter{MinKernel: version(6, 0)}, nil, false},
		{"older major, higher minor", &moby.Filter{MinKernel: version(4, 99)}, nil, true},
		{"not this arch", nil, &moby.Filter{Arches: []string{"amd64"}}, false},
		{"not other arch", nil, &moby.Filter{Arches: []string{"arm64"}}, true},
		{"not with any cap", nil, &moby.Filter{Caps: []string{"CAP_BPF", "CAP_KILL"}}, false},
		{"not with other cap", nil, &moby.Filter{Caps: []string{"CAP_BPF"}}, true},
		{"not on this kernel", nil, &moby.Filter{MinKernel: version(5, 10)}, false},
		{"not on newer", nil, &moby.Filter{MinKernel: version(5, 11)}, true},
		{"excludes win", &moby.Filter{Arches: []string{"amd64"}}, &moby.Filter{Caps: []string{"CAP_KILL"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, "applies", applies(&moby.Syscall{Includes: c.includes, Excludes: c.excludes}, host, caps), c.want)
		})
	}
}

// TestSameAsUpstream compares with upstream's own evaluation, which asks the
// running kernel.
func TestSameAsUpstream(t *testing.T) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := string(bytes.TrimRight(name.Release[:], "\x00"))
	version := moby.KernelVersion{}
	parts := strings.SplitN(release, ".", 3)
	if err := version.UnmarshalJSON([]byte(`"` + parts[0] + "." + strings.TrimRight(parts[1], "-abcdefghijklmnopqrstuvwxyz") + `"`)); err != nil {
		t.Fatal(err)
	}
	host := Host{Arch: runtime.GOARCH, Kernel: Kernel{int(version.Kernel), int(version.Major)}}
	for _, caps := range [][]string{nil, defaultCapabilities, capabilityNames} {
		want, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := resolveProfile(moby.DefaultProfile(), host, caps)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "profile", got, want)
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}], "syscalls": [{"name": "a", "action": "SCMP_ACT_LOG", "args": [{"index": 1, "op": "SCMP_CMP_EQ"}], "includes": {"caps": ["CAP_KILL"], "minKernel": "4.8"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseProfile(data)
		if err != nil {
			return
		}
		out, err := resolveProfile(p, testHost(), defaultCapabilities)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range out.Syscalls {
			if len(rule.Names) == 0 {
				t.Error("a rule without names")
			}
		}
	})
}
