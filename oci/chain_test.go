package oci

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/program"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "rewrite what comes of the requests in testdata/*.golden")

// TestChain shows a container's whole way as text: the CRI request, the
// runtime-spec that comes of it, and the program of system calls that comes of
// that, for both architectures.
func TestChain(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) < 3 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			request, _, _ := strings.Cut(string(raw), "-- runtime-spec --\n")
			_, body, _ := strings.Cut(request, "-- request --\n")
			got := request + chain(t, body, "amd64") + chain(t, body, "arm64")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(raw) {
				t.Errorf("%s differs: go test -update rewrites it, and git shows what changed", file)
			}
		})
	}
}

// chain is the spec, for the first architecture, and the program.
func chain(t *testing.T, request, arch string) string {
	t.Helper()
	in := spec.Input{ID: "c0ffee", SandboxID: "decade", CgroupPath: "/kubepods/pod-u-1/c0ffee",
		Sandbox: &runtimeapi.PodSandboxConfig{Hostname: "web", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u-1"}},
		Config:  &runtimeapi.ContainerConfig{}, Namespaces: spec.Namespaces{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files: spec.Files{Hosts: "/pod/hosts", Hostname: "/pod/hostname", ResolvConf: "/pod/resolv.conf", Shm: "/pod/shm"},
		Host: spec.Host{Arch: arch, Kernel: spec.Kernel{Major: 6, Minor: 12}, Hostname: "node-1", CgroupV2: true, MinOOMScoreAdj: -1000,
			Capabilities: []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_PTRACE"}},
		Defaults: spec.NewDefaults()}
	d := json.NewDecoder(strings.NewReader(request))
	d.DisallowUnknownFields()
	if err := d.Decode(in.Config); err != nil {
		t.Fatal(err)
	}
	if in.Config.Linux.SecurityContext.NamespaceOptions.GetPid() == runtimeapi.NamespaceMode_POD {
		in.Namespaces.PID = "/ns/pid"
	}
	s, err := spec.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := program.CompileSeccomp(s.Linux.Seccomp, arch)
	if err != nil {
		t.Fatal(err)
	}
	files := map[int]bool{}
	for n, m := range s.Mounts {
		files[n] = m.Type == "bind" && m.Destination != "/dev/shm"
	}
	p, err := program.Container(program.ContainerInput{ID: in.ID, Arch: arch, Spec: s, Filter: filter, CgroupV2: "cgroup", FileMounts: files})
	if err != nil {
		t.Fatal(err)
	}
	text := "-- program, " + arch + " --\n" + p.Text()
	if arch != "amd64" {
		return text
	}
	if s.Linux.Seccomp != nil {
		s.Linux.Seccomp.Syscalls = nil // hundreds of lines, which oci/spec has golden files for
	}
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return "-- runtime-spec --\n" + string(b) + "\n" + text
}
