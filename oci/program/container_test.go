package program

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fromGolden gives the input of a golden file.
func fromGolden(t testing.TB, name string) goldenInput {
	t.Helper()
	content, err := os.ReadFile("testdata/" + name + ".golden")
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := strings.Cut(strings.TrimPrefix(string(content), inputMark), amd64Mark)
	var in goldenInput
	if err := json.Unmarshal([]byte(input), &in); err != nil {
		t.Fatal(err)
	}
	return in
}

// TestContainerErrors gives bad input; each error names it.
func TestContainerErrors(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec, *ContainerInput){
		`architecture "mips" is neither amd64 nor arm64`:                   func(_ *specs.Spec, in *ContainerInput) { in.Arch = "mips" },
		"the spec has no process or no linux section":                      func(s *specs.Spec, _ *ContainerInput) { s.Process = nil },
		"the spec has a seccomp profile, but no compiled filter was given": func(s *specs.Spec, _ *ContainerInput) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
		"process.args is empty: the command to execute is missing":         func(s *specs.Spec, _ *ContainerInput) { s.Process.Args = nil },
		`process.cwd is "tmp", not an absolute path`:                       func(s *specs.Spec, _ *ContainerInput) { s.Process.Cwd = "tmp" },
		`"a\x00b" contains a NUL byte`:                                     func(s *specs.Spec, _ *ContainerInput) { s.Process.Env = []string{"a\x00b"} },
		`process.rlimits: "RLIMIT_X" is not a resource limit`:              func(s *specs.Spec, _ *ContainerInput) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		`process.capabilities.bounding: "CAP_X" is not a capability`:       func(s *specs.Spec, _ *ContainerInput) { s.Process.Capabilities.Bounding = []string{"CAP_X"} },
		"CAP_SYSLOG|CAP_BPF is effective or ambient but not permitted": func(s *specs.Spec, _ *ContainerInput) {
			s.Process.Capabilities.Ambient = []string{"CAP_BPF", "CAP_SYSLOG"}
		},
		"linux.namespaces: a user namespace can only be joined: it needs a path": func(s *specs.Spec, _ *ContainerInput) { s.Linux.Namespaces[2] = specs.LinuxNamespace{Type: "user"} },
		"linux.namespaces has a user namespace and linux.uidMappings and gidMappings, or none of them": func(s *specs.Spec, _ *ContainerInput) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		},
		"linux.namespaces has pid twice":                                  func(s *specs.Spec, _ *ContainerInput) { s.Linux.Namespaces[2].Type = "pid" },
		"linux.namespaces: a mount namespace cannot be joined, only made": func(s *specs.Spec, _ *ContainerInput) { s.Linux.Namespaces[4].Path = "/x" },
		"nothing can be mounted below /proc":                              func(s *specs.Spec, _ *ContainerInput) { s.Mounts[1].Destination = "/tmp/../proc/self/attr" },
		"mount 1 has the destination /, which is the root file system's":  func(s *specs.Spec, _ *ContainerInput) { s.Mounts[1].Destination = "//" },
		"mount on /sys: option rslave does not go with type sysfs":        func(s *specs.Spec, _ *ContainerInput) { s.Mounts[4].Options = []string{"rslave"} },
		`CgroupMounts: "cgroup.a/b" is not cgroup.<controller>`:           func(_ *specs.Spec, in *ContainerInput) { in.CgroupMounts = []string{"cgroup.a/b"} },
		"PATH has no absolute directory to find it in": func(s *specs.Spec, _ *ContainerInput) {
			s.Process.Args, s.Process.Env = []string{"a"}, []string{"PATH=.:b"}
		},
		"bytes of arguments, environment and paths, at most 4194304":            func(s *specs.Spec, _ *ContainerInput) { s.Process.Env = []string{strings.Repeat("x", MaxData)} },
		"by which a process enters a pid namespace with others in it: allow it": refuseClone,
		"the seccomp profile refuses execve(2)":                                 refuseExecve,
	} {
		in := fromGolden(t, "default").Container
		in.Arch = "amd64"
		in.Filter, _ = CompileSeccomp(in.Spec.Linux.Seccomp, "amd64")
		if strings.Contains(want, "no compiled filter") {
			in.Filter = Filter{}
		}
		change(in.Spec, in)
		p, err := Container(*in)
		if p != nil || err == nil || !strings.HasPrefix(err.Error(), "cannot compile container web: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func refuseClone(s *specs.Spec, in *ContainerInput) {
	s.Linux.Namespaces[0].Path = "/proc/7/ns/pid"
	refuse(in, "clone")
}

func refuseExecve(_ *specs.Spec, in *ContainerInput) { refuse(in, "execve") }

func refuse(in *ContainerInput, name string) {
	in.Filter, _ = CompileSeccomp(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: []string{name}, Action: specs.ActErrno}}}, in.Arch)
}

// TestExecErrors gives bad input to Exec.
func TestExecErrors(t *testing.T) {
	for want, change := range map[string]func(*ExecInput){
		"the container's spec has no linux section": func(in *ExecInput) { in.Spec.Linux = nil },
		"there is no process":                       func(in *ExecInput) { in.Process = nil },
		"no compiled filter was given":              func(in *ExecInput) { in.Filter = Filter{} },
		"process.args[0] is empty":                  func(in *ExecInput) { in.Process.Args = []string{""} },
	} {
		in := fromGolden(t, "exec").Exec
		in.Arch = "arm64"
		in.Filter, _ = CompileSeccomp(in.Spec.Linux.Seccomp, "arm64")
		change(in)
		if _, err := Exec(*in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestOpenErrors gives an opener too few, too many and relative paths.
func TestOpenErrors(t *testing.T) {
	for _, requests := range [][]TreeRequest{nil, make([]TreeRequest, MaxTrees+1), {{Path: "a"}}, {{Dir: "a", Path: "b"}}, {{Path: "/a\x00"}}} {
		if p, err := OpenTrees("amd64", requests); err == nil {
			t.Errorf("%d requests: no error\n%s", len(requests), p.Text())
		}
	}
}

// TestOpenFlags has the values that differ between the two architectures, as
// arch/arm64/include/uapi/asm/fcntl.h has them.
func TestOpenFlags(t *testing.T) {
	for arch, want := range map[string]uint64{"amd64": 0x2b0000, "arm64": 0x28c000} {
		l := must[*list](t)(newList("test", arch, 8))
		got, names := l.openFlags(oPath | oDirectory | oNofollow)
		equal(t, arch, got, want)
		equal(t, arch, names, "O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC")
	}
	l := must[*list](t)(newList("test", hostArch, 8))
	got, _ := l.openFlags(oDirectory | oNofollow | oWronly | oAppend | oCreat)
	equal(t, "the host's", got, uint64(unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC))
}

// TestRegisters: no program uses more than there are, and none is lost.
func TestRegisters(t *testing.T) {
	in := fromGolden(t, "nested-volumes").Container
	for range 50 {
		in.Spec.Mounts = append(in.Spec.Mounts, specs.Mount{Type: "bind", Destination: "/data/x/y"})
		in.Spec.Linux.MaskedPaths = append(in.Spec.Linux.MaskedPaths, "/proc/x")
	}
	in.Arch = "amd64"
	in.Filter, _ = CompileSeccomp(in.Spec.Linux.Seccomp, "amd64")
	if _, err := Container(*in); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkContainer(b *testing.B) {
	in := *fromGolden(b, "default").Container
	in.Arch = "amd64"
	var err error
	if in.Filter, err = CompileSeccomp(defaultProfile(b), "amd64"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Container(in); err != nil {
			b.Fatal(err)
		}
	}
}
