package spec

import (
	"errors"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testHost() Host {
	return Host{
		Arch:              "amd64",
		Kernel:            Kernel{6, 12},
		Hostname:          "node-1",
		CgroupV2:          true,
		Swap:              true,
		RecursiveReadOnly: true,
		HugePageSizes:     []string{"2MB"},
		Capabilities:      capabilityNames,
		MinOOMScoreAdj:    -1000,
		Devices: []specs.LinuxDevice{
			{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
			{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
			{Path: "/dev/console", Type: "c", Major: 5, Minor: 1},
			{Path: "/dev/pts/0", Type: "c", Major: 136, Minor: 0},
			{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0},
		},
	}
}

// testInput is a small pod with one container, as the kubelet would ask for it.
func testInput() Input {
	return Input{
		ID:        "c0ffee",
		SandboxID: "decade",
		Sandbox: &runtimeapi.PodSandboxConfig{
			Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u-1"},
			Hostname:     "web",
			LogDirectory: "/var/log/pods/shop_web_u-1",
		},
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "server"},
			Image:    &runtimeapi.ImageSpec{Image: "registry.example/server:1"},
			Command:  []string{"/bin/server"},
			LogPath:  "server/0.log",
			Linux: &runtimeapi.LinuxContainerConfig{
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{},
			},
		},
		Namespaces: Namespaces{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		CgroupPath: "/kubepods/pod-u-1/c0ffee",
		Files: Files{
			Hosts: "/pod/hosts", Hostname: "/pod/hostname", ResolvConf: "/pod/resolv.conf", Shm: "/pod/shm",
		},
		Host:     testHost(),
		Defaults: NewDefaults(),
	}
}

func (in *Input) sc() *runtimeapi.LinuxContainerSecurityContext {
	return in.Config.Linux.SecurityContext
}

// mustContainer applies change to testInput and returns its spec.
func mustContainer(t *testing.T, change func(*Input)) *specs.Spec {
	t.Helper()
	in := testInput()
	change(&in)
	s, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantInvalid fails unless err is ErrInvalid and names what is wrong.
func wantInvalid(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error is %v, want ErrInvalid with %q", err, parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if n := strings.Count(err.Error(), ErrInvalid.Error()); n != 1 {
		t.Errorf("error %q says %q %d times", err, ErrInvalid, n)
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// TestPure keeps the package from asking the machine: what it may not import it
// cannot call. (moby's own evaluation of profiles asks the kernel; it is not used.)
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := []string{"os", "syscall", "net", "time", "runtime", "golang.org/x/sys/unix", "context", "log", "log/slog"}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if name := strings.Trim(imp.Path.Value, `"`); slices.Contains(forbidden, name) || strings.HasPrefix(name, "os/") {
				t.Errorf("%s imports %s", file, name)
			}
		}
	}
}

// TestSpecsAreSeparate is CVE-2021-21334: one container's spec changed another's.
func TestSpecsAreSeparate(t *testing.T) {
	in := testInput()
	in.sc().Seccomp = &runtimeapi.SecurityProfile{}
	in.sc().Privileged = true
	in.Image = ocispec.ImageConfig{Env: []string{"A=1"}, Entrypoint: []string{"/x"}, Cmd: []string{"y"}}
	in.Config.Command = nil
	in.Devices = []Device{{Node: defaultDevice("/dev/fuse", 10, 229), Permissions: "rw"}}
	first, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := Container(in)
	overwrite(reflect.ValueOf(first))
	third, _ := Container(in)
	if !reflect.DeepEqual(second, third) {
		t.Error("writing to one spec changed the next")
	}
}

// overwrite changes every scalar that v reaches, in place.
func overwrite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			overwrite(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			overwrite(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			overwrite(v.Index(i))
		}
	case reflect.String:
		v.SetString("overwritten")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	}
}

func TestExec(t *testing.T) {
	base := mustContainer(t, func(in *Input) {
		in.sc().NoNewPrivs = true
		in.sc().RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	})
	before := mustContainer(t, func(in *Input) {
		in.sc().NoNewPrivs = true
		in.sc().RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	})

	p := Exec(base, []string{"sh", "-c", "id"}, true)
	equal(t, "args", p.Args, []string{"sh", "-c", "id"})
	equal(t, "terminal", p.Terminal, true)
	equal(t, "uid", p.User.UID, 1000)
	equal(t, "no_new_privs", p.NoNewPrivileges, true)
	equal(t, "capabilities", p.Capabilities, base.Process.Capabilities)
	equal(t, "rlimits", p.Rlimits, base.Process.Rlimits)
	equal(t, "env", p.Env, append(slices.Clone(base.Process.Env), "TERM=xterm"))
	equal(t, "env again", Exec(&specs.Spec{Process: p}, []string{"x"}, true).Env, p.Env)
	equal(t, "env without tty", Exec(base, []string{"x"}, false).Env, base.Process.Env)

	overwrite(reflect.ValueOf(p))
	equal(t, "base", base, before)
}

func TestNamespacesGiven(t *testing.T) {
	for _, clear := range []func(*Input){
		func(in *Input) { in.Namespaces.Network = "" },
		func(in *Input) { in.Namespaces.IPC = "" },
		func(in *Input) { in.Namespaces.UTS = "" },
		func(in *Input) { in.Files.Shm = "" },
	} {
		in := testInput()
		clear(&in)
		if _, err := Container(in); err == nil || errors.Is(err, ErrInvalid) {
			t.Errorf("error is %v, want one that does not blame the request", err)
		}
	}
}
