package spec

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type pod = runtimeapi.PodSandboxConfig

// podWith returns testInput's pod, all of whose parts exist, after change.
func podWith(change func(*pod)) *pod {
	p := testInput().Sandbox
	p.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{},
	}}
	p.DnsConfig = &runtimeapi.DNSConfig{}
	change(p)
	return p
}

func TestValidateSandboxAccepts(t *testing.T) {
	for name, change := range map[string]func(*pod){
		"minimal":        func(p *pod) { p.Linux, p.DnsConfig, p.Hostname, p.LogDirectory = nil, nil, "", "" },
		"cgroupfs":       func(p *pod) { p.Linux.CgroupParent = "/kubepods/burstable/podu-1" },
		"systemd":        func(p *pod) { p.Linux.CgroupParent = "kubepods-burstable-podu_1.slice" },
		"hostname of 64": func(p *pod) { p.Hostname = strings.Repeat("a", 64) },
		"dns": func(p *pod) {
			p.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10", "fd00::1", "fe80::1%eth0"}, Searches: []string{"a.svc", "."}, Options: []string{"ndots:5"}}
		},
		"ports": func(p *pod) {
			p.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80}, {}, {Protocol: 2, ContainerPort: 65535, HostPort: 65535, HostIp: "::"}}
		},
		"node's namespaces": func(p *pod) {
			p.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: 2, Pid: 2, Ipc: 2, UsernsOptions: &runtimeapi.UserNamespace{Mode: 2}}
		},
		"own pid": func(p *pod) { p.Linux.SecurityContext.NamespaceOptions.Pid = 1 },
		"ids": func(p *pod) {
			p.Linux.SecurityContext.RunAsUser, p.Linux.SecurityContext.RunAsGroup = value(0), value(maxID)
		},
		"profiles": func(p *pod) {
			p.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{}
			p.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: 2, LocalhostRef: "x"}
			p.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ValidateSandbox(podWith(change)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidateSandboxRefuses(t *testing.T) {
	wantInvalid(t, ValidateSandbox(nil), "config is missing")
	for _, c := range []struct {
		change func(*pod)
		says   []string
	}{
		{func(p *pod) { p.Metadata = nil }, []string{"metadata is missing"}},
		{func(p *pod) { p.Metadata.Name = "" }, []string{"metadata.name is empty"}},
		{func(p *pod) { p.Metadata.Namespace = "" }, []string{"metadata.namespace is empty"}},
		{func(p *pod) { p.Metadata.Uid = "" }, []string{"metadata.uid is empty"}},
		{func(p *pod) { p.Metadata.Name = "a\nb" }, []string{"metadata.name", `"a\nb"`}},
		{func(p *pod) { p.Hostname = strings.Repeat("a", 65) }, []string{"hostname", "64"}},
		{func(p *pod) { p.Hostname = "a b" }, []string{"hostname"}},
		{func(p *pod) { p.Hostname = "a/b" }, []string{"hostname"}},
		{func(p *pod) { p.Hostname = "a\x00" }, []string{"hostname"}},
		{func(p *pod) { p.LogDirectory = "logs" }, []string{"log_directory", `"logs"`, "absolute"}},
		{func(p *pod) { p.LogDirectory = "/var/log/../../etc" }, []string{"log_directory"}},
		{func(p *pod) { p.DnsConfig.Servers = []string{"1.1.1.1", "dns"} }, []string{"dns_config.servers[1]", `"dns"`}},
		{func(p *pod) { p.DnsConfig.Searches = []string{"a\nnameserver 6.6.6.6"} }, []string{"dns_config.searches[0]"}},
		{func(p *pod) { p.DnsConfig.Options = []string{"a b"} }, []string{"dns_config.options[0]"}},
		{func(p *pod) { p.DnsConfig.Options = []string{""} }, []string{"dns_config.options[0]"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{Protocol: 3}} }, []string{"port_mappings[0].protocol 3"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{HostPort: 65536, ContainerPort: 1}} }, []string{"port_mappings[0].host_port 65536"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{HostPort: -1}} }, []string{"port_mappings[0].host_port -1"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} }, []string{"port_mappings[0].container_port 0", "between 1"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: -1}} }, []string{"port_mappings[0].container_port -1"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 65536}} }, []string{"port_mappings[0].container_port 65536"}},
		{func(p *pod) { p.PortMappings = []*runtimeapi.PortMapping{{HostIp: "host"}} }, []string{"port_mappings[0].host_ip", `"host"`}},
		{func(p *pod) { p.Linux.CgroupParent = "/a/../b" }, []string{"linux.cgroup_parent"}},
		{func(p *pod) { p.Linux.CgroupParent = "a.slice\n" }, []string{"linux.cgroup_parent"}},
		{func(p *pod) { p.Linux.Sysctls = map[string]string{"vm.x": "1"} }, []string{"linux.sysctls", "vm.x"}},
		{func(p *pod) { p.Linux.SecurityContext.NamespaceOptions.Network = 1 }, []string{"namespace_options.network CONTAINER", "POD or NODE"}},
		{func(p *pod) { p.Linux.SecurityContext.NamespaceOptions.Ipc = 3 }, []string{"namespace_options.ipc TARGET"}},
		{func(p *pod) { p.Linux.SecurityContext.NamespaceOptions.Pid = 3 }, []string{"namespace_options.pid TARGET"}},
		{func(p *pod) {
			p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{}
		}, []string{"userns_options.uids has 0 mappings", "userns_options.gids has 0 mappings"}},
		{func(p *pod) {
			p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: 1}
		}, []string{"userns_options.mode CONTAINER"}},
		{func(p *pod) {
			p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: 2, Uids: []*runtimeapi.IDMapping{{}}}
		}, []string{"userns_options", "no uids"}},
		{func(p *pod) { p.Linux.SecurityContext.RunAsUser = value(-1) }, []string{"run_as_user -1"}},
		{func(p *pod) { p.Linux.SecurityContext.RunAsGroup = value(1) }, []string{"run_as_group 1", "run_as_user"}},
		{func(p *pod) { p.Linux.SecurityContext.SupplementalGroups = []int64{1 << 32} }, []string{"supplemental_groups"}},
		{func(p *pod) { p.Linux.SecurityContext.SupplementalGroupsPolicy = 2 }, []string{"supplemental_groups_policy 2"}},
		{func(p *pod) { p.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: 7} }, []string{"seccomp.profile_type 7"}},
		{func(p *pod) { p.Linux.SecurityContext.SeccompProfilePath = "x" }, []string{"seccomp_profile_path"}},
		{func(p *pod) { p.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: 7} }, []string{"apparmor.profile_type 7"}},
		{func(p *pod) { p.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: 2} }, []string{"apparmor.localhost_ref"}},
		{func(p *pod) { p.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{LocalhostRef: "x"} }, []string{"apparmor.localhost_ref"}},
		{func(p *pod) { p.Windows = &runtimeapi.WindowsPodSandboxConfig{} }, []string{"windows"}},
		{func(p *pod) { p.Metadata.Name, p.LogDirectory = "", "x" }, []string{"metadata.name", "log_directory"}},
	} {
		wantInvalid(t, ValidateSandbox(podWith(c.change)), c.says...)
	}
}

func TestValidateContainerAccepts(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"minimal":        func(in *Input) { in.Config.Linux, in.Config.LogPath = nil, "" },
		"no pod options": func(in *Input) { in.Sandbox.Linux = nil },
		"raw value":      func(in *Input) { in.Config.Envs = []*runtimeapi.KeyValue{{Key: "a b", Value: []byte("\xff\n")}} },
		"pid target": func(in *Input) {
			in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: 3, TargetId: "x"}
		},
		"node's namespaces": func(in *Input) {
			o := &runtimeapi.NamespaceOption{Network: 2, Pid: 2, Ipc: 2}
			in.sc().NamespaceOptions = o
			in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o}}
		},
		"POD in a pod of the node's": func(in *Input) {
			in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: 2, Ipc: 2}}}
		},
		"privileged": func(in *Input) {
			in.sc().Privileged = true
			in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}}
		},
		"relabel without SELinux": mount(func(m *runtimeapi.Mount) { m.SelinuxRelabel = true }),
		"the host's /proc":        mount(func(m *runtimeapi.Mount) { m.ContainerPath, m.HostPath = "/proc/", "/proc" }),
		"lxcfs":                   mount(func(m *runtimeapi.Mount) { m.ContainerPath = "/proc/meminfo" }),
		"/procs":                  mount(func(m *runtimeapi.Mount) { m.ContainerPath = "/procs" }),
		"image": mount(func(m *runtimeapi.Mount) {
			m.HostPath, m.Image, m.Readonly, m.ImageSubPath = "", &runtimeapi.ImageSpec{Image: "x"}, true, "a/b"
		}),
		"old AppArmor": func(in *Input) { in.sc().ApparmorProfile = "localhost/x" },
		"stop signal":  func(in *Input) { in.Config.StopSignal = runtimeapi.Signal_SIGNAL_SIGRTMAX },
		"device": func(in *Input) {
			in.Config.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/x", HostPath: "/dev/y", Permissions: "mrw"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			change(&in)
			if err := ValidateContainer(in.Config, in.Sandbox); err != nil {
				t.Error(err)
			}
		})
	}
}

func mount(change func(*runtimeapi.Mount)) func(*Input) {
	return func(in *Input) {
		m := &runtimeapi.Mount{ContainerPath: "/c", HostPath: "/h"}
		change(m)
		in.Config.Mounts = []*runtimeapi.Mount{m}
	}
}

func device(container, host, permissions string) func(*Input) {
	return func(in *Input) {
		in.Config.Devices = []*runtimeapi.Device{{ContainerPath: container, HostPath: host, Permissions: permissions}}
	}
}

type refusal struct {
	change func(*Input)
	says   []string
}

func wantRefused(t *testing.T, list []refusal) {
	t.Helper()
	for _, c := range list {
		in := testInput()
		c.change(&in)
		wantInvalid(t, ValidateContainer(in.Config, in.Sandbox), c.says...)
	}
}

func TestValidateMountsRefuses(t *testing.T) {
	wantRefused(t, []refusal{
		{mount(func(m *runtimeapi.Mount) { m.ContainerPath = "c" }), []string{"mounts[0].container_path", `"c"`, "absolute"}},
		{mount(func(m *runtimeapi.Mount) { m.ContainerPath = "/a/.." }), []string{"mounts[0].container_path", "other than /"}},
		{mount(func(m *runtimeapi.Mount) { m.ContainerPath = "" }), []string{"mounts[0].container_path"}},
		{mount(func(m *runtimeapi.Mount) { m.ContainerPath = "/proc" }), []string{"mounts[0].container_path", "/proc"}},
		{mount(func(m *runtimeapi.Mount) { m.ContainerPath = "/x/../proc/self/attr" }), []string{"mounts[0].container_path", "/proc"}},
		{mount(func(m *runtimeapi.Mount) { m.HostPath = "" }), []string{"mounts[0].host_path", "absolute"}},
		{mount(func(m *runtimeapi.Mount) { m.HostPath = "h" }), []string{"mounts[0].host_path"}},
		{mount(func(m *runtimeapi.Mount) { m.ImageSubPath = "x" }), []string{"mounts[0].image_sub_path", "image"}},
		{mount(func(m *runtimeapi.Mount) { m.Propagation = 3 }), []string{"mounts[0].propagation 3"}},
		{mount(func(m *runtimeapi.Mount) { m.RecursiveReadOnly = true }), []string{"mounts[0].recursive_read_only", "readonly"}},
		{mount(func(m *runtimeapi.Mount) { m.RecursiveReadOnly, m.Readonly, m.Propagation = true, true, 1 }), []string{"mounts[0].recursive_read_only", "PRIVATE"}},
		{mount(func(m *runtimeapi.Mount) { m.MountOptions = []string{"noexec", "exec"} }), []string{"mounts[0].mount_options[1]", `"exec"`}},
		{mount(func(m *runtimeapi.Mount) { m.UidMappings = []*runtimeapi.IDMapping{{}} }), []string{"mounts[0].uidMappings"}},
		{mount(func(m *runtimeapi.Mount) { m.GidMappings = []*runtimeapi.IDMapping{{}} }), []string{"mounts[0].gidMappings"}},
		{mount(func(m *runtimeapi.Mount) { m.Image = &runtimeapi.ImageSpec{}; m.HostPath = "" }), []string{"mounts[0].image.image is empty"}},
		{mount(func(m *runtimeapi.Mount) { m.Image = &runtimeapi.ImageSpec{Image: "x"} }), []string{"mounts[0].host_path", "exclude"}},
		{mount(func(m *runtimeapi.Mount) { m.Image, m.HostPath = &runtimeapi.ImageSpec{Image: "x"}, "" }), []string{"mounts[0].readonly must be true"}},
		{mount(func(m *runtimeapi.Mount) {
			m.Image, m.HostPath, m.Readonly, m.Propagation = &runtimeapi.ImageSpec{Image: "x"}, "", true, 2
		}), []string{"mounts[0].propagation must be PRIVATE"}},
		{mount(func(m *runtimeapi.Mount) {
			m.Image, m.HostPath, m.Readonly, m.ImageSubPath = &runtimeapi.ImageSpec{Image: "x"}, "", true, "../x"
		}), []string{"mounts[0].image_sub_path"}},

		{device("/dev/x", "x", "r"), []string{"devices[0].host_path"}},
		{device("x", "/dev/x", "r"), []string{"devices[0].container_path"}},
		{device("/", "/dev/x", "r"), []string{"devices[0].container_path"}},
		{device("/dev/x", "/dev/x", ""), []string{"devices[0].permissions"}},
		{device("/dev/x", "/dev/x", "rx"), []string{"devices[0].permissions", `"rx"`}},
	})
}

func TestValidateContainerRefuses(t *testing.T) {
	wantInvalid(t, ValidateContainer(nil, nil), "config is missing")
	wantRefused(t, []refusal{
		{func(in *Input) { in.Config.Metadata = nil }, []string{"metadata is missing"}},
		{func(in *Input) { in.Config.Metadata.Name = "" }, []string{"metadata.name is empty"}},
		{func(in *Input) { in.Config.Image = nil }, []string{"image.image is empty"}},
		{func(in *Input) { in.Config.LogPath = "../x" }, []string{"log_path", `"../x"`, "log_directory"}},
		{func(in *Input) { in.Config.LogPath = "a/../b" }, []string{"log_path"}},
		{func(in *Input) { in.Config.LogPath = "/x" }, []string{"log_path", "relative"}},
		{func(in *Input) { in.Config.LogPath = "." }, []string{"log_path"}},
		{func(in *Input) { in.Config.LogPath = "a\x00" }, []string{"log_path"}},
		{func(in *Input) { in.Config.Envs = []*runtimeapi.KeyValue{{}} }, []string{"envs[0].key"}},
		{func(in *Input) { in.Config.Envs = []*runtimeapi.KeyValue{{Key: "a=b"}} }, []string{"envs[0].key"}},
		{func(in *Input) { in.Config.Envs = []*runtimeapi.KeyValue{{Key: "a\x00"}} }, []string{"envs[0].key"}},
		{func(in *Input) { in.Config.Envs = []*runtimeapi.KeyValue{{Key: "a", Value: []byte{0}}} }, []string{"envs[0].value", "NUL"}},
		{func(in *Input) { in.Config.Command = []string{"a", "b\x00"} }, []string{"command[1]", "NUL"}},
		{func(in *Input) { in.Config.Args = []string{"\x00"} }, []string{"args[0]", "NUL"}},
		{func(in *Input) { in.Config.WorkingDir = "x" }, []string{"working_dir", "absolute"}},
		{func(in *Input) { in.Config.StopSignal = 99 }, []string{"stop_signal 99"}},
		{func(in *Input) { in.Config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "v/c=d"}} }, []string{"CDI_devices[0]", `"v/c=d"`}},
		{func(in *Input) { in.Config.Windows = &runtimeapi.WindowsContainerConfig{} }, []string{"windows"}},
		{func(in *Input) {
			in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: -1}
		}, []string{"cpu_shares"}},

		{func(in *Input) { in.sc().Privileged = true }, []string{"privileged needs a pod"}},
		{func(in *Input) { in.sc().RunAsUser, in.sc().RunAsUsername = value(1), "x" }, []string{"run_as_user 1", "run_as_username", "exclude"}},
		{func(in *Input) { in.sc().RunAsGroup = value(1) }, []string{"run_as_group 1 needs"}},
		{func(in *Input) { in.sc().RunAsUser = value(maxID + 1) }, []string{"run_as_user 4294967295"}},
		{func(in *Input) { in.sc().SupplementalGroups = []int64{-1} }, []string{"supplemental_groups -1"}},
		{func(in *Input) { in.sc().SupplementalGroupsPolicy = 2 }, []string{"supplemental_groups_policy"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Network: 2} }, []string{"namespace_options.network NODE"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: 2} }, []string{"namespace_options.ipc NODE"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: 2} }, []string{"namespace_options.pid NODE"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Network: 1} }, []string{"namespace_options.network CONTAINER"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: 9} }, []string{"namespace_options.ipc"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: 9} }, []string{"namespace_options.pid 9"}},
		{func(in *Input) { in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: 3} }, []string{"target_id is empty"}},
		{func(in *Input) {
			in.sc().NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{}}
		}, []string{"userns_options.mode POD"}},
		{func(in *Input) { in.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"X"}} }, []string{"add_capabilities[0]"}},
		{func(in *Input) { in.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: 2} }, []string{"seccomp.localhost_ref"}},
		{func(in *Input) { in.sc().ApparmorProfile = "x" }, []string{"apparmor_profile", `"x"`}},
		{func(in *Input) { in.sc().ApparmorProfile = "localhost/" }, []string{"apparmor_profile"}},
		{func(in *Input) { in.sc().MaskedPaths = []string{"/ok", "proc"} }, []string{"masked_paths[1]", `"proc"`}},
		{func(in *Input) { in.sc().ReadonlyPaths = []string{"/"} }, []string{"readonly_paths[0]"}},
		{func(in *Input) { in.Config.Metadata.Name, in.Config.LogPath = "", "/x" }, []string{"metadata.name", "log_path"}},
	})
}

func TestLogPath(t *testing.T) {
	in := testInput()
	equal(t, "log path", LogPath(in.Sandbox, in.Config), "/var/log/pods/shop_web_u-1/server/0.log")
	equal(t, "without directory", LogPath(&pod{}, in.Config), "")
	equal(t, "without path", LogPath(in.Sandbox, nil), "")
}
