package spec

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMountOverrides(t *testing.T) {
	destinations := func(s *specs.Spec) []string {
		var list []string
		for _, m := range s.Mounts {
			list = append(list, m.Destination)
		}
		return list
	}
	files := []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
	for _, c := range []struct {
		name  string
		paths []string
		want  []string
	}{
		{"one of the kernel's", []string{"/dev/shm"},
			append([]string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"}, append(files, "/dev/shm")...)},
		{"what is below goes too", []string{"/sys/"},
			append([]string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys"}, files...)},
		{"a like name is another one", []string{"/system"},
			append([]string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/dev/shm", "/system"}, files...)},
		{"the pod's files stay above a parent", []string{"/etc/x", "/etc"},
			append([]string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/dev/shm", "/etc"}, append(files, "/etc/x")...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, "mounts", destinations(mustContainer(t, func(in *Input) {
				for _, p := range c.paths {
					in.Config.Mounts = append(in.Config.Mounts, &runtimeapi.Mount{ContainerPath: p, HostPath: "/h"})
				}
			})), c.want)
		})
	}
	equal(t, "mounts without files", len(mustContainer(t, func(in *Input) { in.Files = Files{Shm: "/pod/shm"} }).Mounts), 7)
}

func TestMountsRefused(t *testing.T) {
	in := testInput()
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "sha256:1"}, Readonly: true}}
	_, err := Container(in)
	wantInvalid(t, err, "mounts[0].image", `"sha256:1"`, "not supported yet")

	in.Host.RecursiveReadOnly = false
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/i", HostPath: "/h", Readonly: true, RecursiveReadOnly: true}}
	_, err = Container(in)
	wantInvalid(t, err, "mounts[0].recursive_read_only", "5.12")
}

func TestRootfsPropagation(t *testing.T) {
	private, slave, shared := &runtimeapi.Mount{}, &runtimeapi.Mount{Propagation: 1}, &runtimeapi.Mount{Propagation: 2}
	equal(t, "none", rootfsPropagation(nil), "rprivate")
	equal(t, "slave", rootfsPropagation([]*runtimeapi.Mount{slave, private}), "rslave")
	equal(t, "shared", rootfsPropagation([]*runtimeapi.Mount{shared, slave}), "rshared")
}

func TestVolumes(t *testing.T) {
	image := ocispec.ImageConfig{Volumes: map[string]struct{}{
		"/data": {}, "/data/": {}, "rel": {}, "/../../etc": {}, "/given": {}, "/": {}, "": {}, "/bad\nname": {},
		"/proc": {}, "/proc/sys": {}, "/sys/fs": {}, "/dev": {}, "/dev/x/../shm": {}, "/device": {},
	}}
	c := &runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{{ContainerPath: "/given/"}}}
	equal(t, "volumes", Volumes(c, image), []string{"/data", "/device", "/etc", "/rel"})
	equal(t, "volumes of none", Volumes(c, ocispec.ImageConfig{}), nil)
}

func TestResources(t *testing.T) {
	ptr := func(n int64) *int64 { return &n }
	host := testHost()
	noSwap := testHost()
	noSwap.Swap = false
	for _, c := range []struct {
		name string
		req  *runtimeapi.LinuxContainerResources
		host Host
		want specs.LinuxResources
	}{
		{"nil", nil, host, specs.LinuxResources{}},
		{"empty", &runtimeapi.LinuxContainerResources{}, host, specs.LinuxResources{}},
		{"swap follows memory", &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5}, host,
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(5), Swap: ptr(5)}}},
		{"swap asked for", &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5, MemorySwapLimitInBytes: 8}, host,
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(5), Swap: ptr(8)}}},
		{"unlimited swap alone", &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -1}, host,
			specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(-1)}}},
		{"unlimited swap without accounting", &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -1}, noSwap, specs.LinuxResources{}},
		{"memory without swap accounting", &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -1}, noSwap,
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(-1)}}},
		{"no swapping without swap accounting", &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5, MemorySwapLimitInBytes: 5}, noSwap,
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(5)}}},
		{"a zero limit on pages without controller", &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB"}}}, host,
			specs.LinuxResources{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resources(c.req, c.host)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "resources", *got, c.want)
		})
	}
}

func TestResourcesRefused(t *testing.T) {
	v1 := testHost()
	v1.CgroupV2, v1.Swap = false, false
	huge := func(size string, limit uint64) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size, Limit: limit}}}
	}
	unified := func(k, v string) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{Unified: map[string]string{k: v}}
	}
	for _, c := range []struct {
		req  *runtimeapi.LinuxContainerResources
		says []string
	}{
		{&runtimeapi.LinuxContainerResources{CpuPeriod: 999}, []string{"cpu_period 999", "1000"}},
		{&runtimeapi.LinuxContainerResources{CpuPeriod: 1000001}, []string{"cpu_period"}},
		{&runtimeapi.LinuxContainerResources{CpuPeriod: -1}, []string{"cpu_period"}},
		{&runtimeapi.LinuxContainerResources{CpuQuota: -2}, []string{"cpu_quota -2"}},
		{&runtimeapi.LinuxContainerResources{CpuQuota: 999}, []string{"cpu_quota 999"}},
		{&runtimeapi.LinuxContainerResources{CpuShares: -1}, []string{"cpu_shares"}},
		{&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -2}, []string{"memory_limit_in_bytes"}},
		{&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -2}, []string{"memory_swap_limit_in_bytes"}},
		{&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 5}, []string{"memory_swap_limit_in_bytes"}},
		{&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 9, MemorySwapLimitInBytes: 5}, []string{"memory_swap_limit_in_bytes"}},
		{&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5, MemorySwapLimitInBytes: 9}, []string{"memory_swap_limit_in_bytes 9", "does not account swap"}},
		{&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}, []string{"oom_score_adj 1001"}},
		{&runtimeapi.LinuxContainerResources{OomScoreAdj: -1001}, []string{"oom_score_adj -1001"}},
		{&runtimeapi.LinuxContainerResources{CpusetCpus: "0-1,\n"}, []string{"cpuset_cpus"}},
		{&runtimeapi.LinuxContainerResources{CpusetMems: "all"}, []string{"cpuset_mems", `"all"`}},
		{huge("2MiB", 0), []string{"hugepage_limits[0].page_size", "2MB"}},
		{huge("1GB", 1<<30), []string{"hugepage_limits[0].page_size", `"1GB"`, "2MB"}},
		{unified("memory.max", "1"), []string{"unified", "cgroup v2"}},
		{unified("cgroup.procs", "1"), []string{"unified", "cgroup.procs"}},
		{unified("memory/../../x", "1"), []string{"unified"}},
		{unified("memory.max", "1\n2"), []string{"unified", "control"}},
		{&runtimeapi.LinuxContainerResources{CpuShares: -1, CpuQuota: -7}, []string{"cpu_shares", "cpu_quota"}},
	} {
		_, err := Resources(c.req, v1)
		wantInvalid(t, err, c.says...)
		in := testInput()
		in.Config.Linux.Resources, in.Host = c.req, v1
		_, err = Container(in)
		wantInvalid(t, err, c.says...)
	}
}

func TestAppArmor(t *testing.T) {
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	const (
		standard   = runtimeapi.SecurityProfile_RuntimeDefault
		unconfined = runtimeapi.SecurityProfile_Unconfined
		local      = runtimeapi.SecurityProfile_Localhost
	)
	for _, c := range []struct {
		name   string
		active bool
		sc     *security
		says   string // empty: accepted
		want   string // the profile
	}{
		{"nothing, active", true, &security{}, "", DefaultAppArmor},
		{"nothing, inactive", false, &security{}, "", ""},
		{"default, inactive", false, &security{Apparmor: profile(standard, "")}, "", ""},
		{"default, active", true, &security{Apparmor: profile(standard, "")}, "", DefaultAppArmor},
		{"unconfined, active", true, &security{Apparmor: profile(unconfined, "")}, "", ""},
		{"localhost, inactive", false, &security{Apparmor: profile(local, "web")}, `"web": AppArmor is not active`, ""},
		{"localhost, active", true, &security{Apparmor: profile(local, "web")}, "", "web"},
		{"localhost with its prefix", true, &security{Apparmor: profile(local, "localhost/web")}, "", "web"},
		{"old default, inactive", false, &security{ApparmorProfile: "runtime/default"}, "", ""},
		{"old default, active", true, &security{ApparmorProfile: "runtime/default"}, "", DefaultAppArmor},
		{"old unconfined", true, &security{ApparmorProfile: "unconfined"}, "", ""},
		{"old localhost, inactive", false, &security{ApparmorProfile: "localhost/web"}, `"web"`, ""},
		{"old localhost, active", true, &security{ApparmorProfile: "localhost/web"}, "", "web"},
		{"new over old", true, &security{Apparmor: profile(unconfined, ""), ApparmorProfile: "localhost/web"}, "", ""},
		{"privileged", true, &security{Apparmor: profile(local, "web"), Privileged: true}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testInput()
			in.Host.AppArmor = c.active
			in.Config.Linux.SecurityContext = c.sc
			s, err := Container(in)
			if c.says != "" {
				wantInvalid(t, err, "linux.security_context.apparmor", c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Process.ApparmorProfile; got != c.want {
				t.Errorf("the profile is %q, want %q", got, c.want)
			}
			if got := Exec(s, []string{"x"}, false).ApparmorProfile; got != c.want {
				t.Errorf("that of an exec is %q, want %q", got, c.want)
			}
		})
	}
}

// TestLabels: they stand where the runtime-spec has them, and an exec has its
// container's.
func TestLabels(t *testing.T) {
	in := testInput()
	in.Labels = Labels{Process: "u:r:container_t:s0:c1,c2", Mount: "u:object_r:container_file_t:s0:c1,c2"}
	s, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if s.Process.SelinuxLabel != in.Labels.Process || s.Linux.MountLabel != in.Labels.Mount || Exec(s, []string{"x"}, false).SelinuxLabel != in.Labels.Process {
		t.Errorf("process %q, mount %q", s.Process.SelinuxLabel, s.Linux.MountLabel)
	}
}

func TestSysctls(t *testing.T) {
	pod := func(network, ipc runtimeapi.NamespaceMode, set map[string]string) *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
			Sysctls: set,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: network, Ipc: ipc}},
		}}
	}
	const own, node = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE
	for _, c := range []struct {
		name string
		pod  *runtimeapi.PodSandboxConfig
		want map[string]string
	}{
		{"none", nil, defaultSysctls},
		{"none on the node's network", pod(node, own, nil), map[string]string{}},
		{"own", pod(own, own, map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "1024", "net/ipv4/conf/eth0.5/forwarding": "1", "net.ipv4.conf.eth0/6.forwarding": "1",
			"kernel.shm_rmid_forced": "1", "kernel/sem": "1\t2 3 4", "fs.mqueue.msg_max": "20", "net.ipv4.ip_local_reserved_ports": "",
		}), map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "0 2147483647",
			"net.ipv4.conf.eth0/5.forwarding": "1", "net.ipv4.conf.eth0/6.forwarding": "1",
			"kernel.shm_rmid_forced": "1", "kernel.sem": "1\t2 3 4", "fs.mqueue.msg_max": "20", "net.ipv4.ip_local_reserved_ports": "",
		}},
		{"ipc on the node's network", pod(node, own, map[string]string{"kernel.msgmax": "1"}), map[string]string{"kernel.msgmax": "1"}},
		{"net with the node's ipc", pod(own, node, map[string]string{"net.ipv4.ping_group_range": "1 0"}), map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "1 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Sysctls(c.pod)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "sysctls", got, c.want)
		})
	}
	for _, c := range []struct {
		pod  *runtimeapi.PodSandboxConfig
		says []string
	}{
		{pod(node, own, map[string]string{"net.core.somaxconn": "1"}), []string{`"net.core.somaxconn"`, "network namespace"}},
		{pod(node, own, map[string]string{"net/core/somaxconn": "1"}), []string{"network namespace"}},
		{pod(own, node, map[string]string{"kernel.shmmax": "1"}), []string{`"kernel.shmmax"`, "ipc namespace"}},
		{pod(own, node, map[string]string{"fs.mqueue.msg_max": "1"}), []string{"ipc namespace"}},
		{pod(own, own, map[string]string{"kernel.core_pattern": "x"}), []string{`"kernel.core_pattern"`, "not of a namespace"}},
		{pod(own, own, map[string]string{"kernel.shmx": "1"}), []string{"not of a namespace"}},
		{pod(own, own, map[string]string{"vm.swappiness": "1"}), []string{"not of a namespace"}},
		{pod(own, own, map[string]string{"net.ipv4.x": "1+kernel.core_pattern=|/x"}), []string{"net.ipv4.x", "other characters"}},
		{pod(own, own, map[string]string{"net.ipv4.x": "1\n2"}), []string{"other characters"}},
		{pod(own, own, map[string]string{"net.ipv4.x": string(make([]byte, 5000))}), []string{"4095"}},
		{pod(own, own, map[string]string{"net/../kernel/core_pattern": "1"}), []string{"no name"}},
		{pod(own, own, map[string]string{"net.ipv4.+x": "1"}), []string{"no name"}},
		{pod(own, own, map[string]string{"net.//x": "1"}), []string{"no name"}},
		{pod(own, own, map[string]string{"net": "1"}), []string{"no name"}},
		{pod(own, own, map[string]string{"": "1"}), []string{"no name"}},
		{pod(own, own, map[string]string{"net.a.b": "1", "net/a/b": "2"}), []string{`"net.a.b" and "net/a/b" are the same`}},
	} {
		_, err := Sysctls(c.pod)
		wantInvalid(t, err, append(c.says, "linux.sysctls")...)
	}
	equal(t, "path", SysctlPath("net.ipv4.conf.eth0/5.forwarding"), "net/ipv4/conf/eth0.5/forwarding")
}
