package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// A kind is a runtime that the benchmark knows how to start. Its configuration
// is the runtime's own but for directories, the test machine's missing right to
// lower oom_score_adj, and a registry without TLS on 127.0.0.1.
type kind struct {
	program   string // looked for on PATH
	processes string // command lines of what is the runtime's, not a workload's
	argv      func(dir, run, program string) []string
	files     map[string]string // name → text; DIR stands for the directory, RUN for the one in memory
	socket    string            // below the directory in memory
}

var kinds = map[string]kind{
	"cri-box": {
		program: "cri-box", processes: `^\S*cri-box (serve|keeper|spawner)`, socket: "s/cri-box.sock",
		argv: func(dir, run, program string) []string {
			return []string{program, "serve", "--root", dir + "/r", "--state", run + "/s", "--set", "network.cni.conf_dir=" + dir + "/none"}
		},
	},
	"containerd": {
		program: "containerd", processes: `^\S*(containerd|containerd-shim-runc-v2|runc) `, socket: "s.sock",
		argv:  func(dir, _, program string) []string { return []string{program, "--config", dir + "/config.toml"} },
		files: map[string]string{"config.toml": containerdConfig, "cni/10-bench.conflist": bridge},
	},
	"cri-o": {
		program: "crio", processes: `^\S*(crio|conmon|conmonrs|runc) ?`, socket: "s.sock",
		argv: func(dir, _, program string) []string {
			return []string{program, "--config", dir + "/crio.conf", "--config-dir", ""}
		},
		files: map[string]string{"crio.conf": crioConfig, "cni/10-bench.conflist": bridge, ".config/containers/registries.conf": crioRegistries,
			"policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`},
	},
}

// bridge is the network that these runtimes' documentation begins with.
const bridge = `{"cniVersion":"1.0.0","name":"bench","plugins":[
 {"type":"bridge","bridge":"bench0","isGateway":true,"ipMasq":true,"promiscMode":true,
  "ipam":{"type":"host-local","dataDir":"DIR/ipam","ranges":[[{"subnet":"10.77.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}`

// containerdConfig has the tables of 1.x (version 2) and 2.x (version 3); each
// reads its own.
const containerdConfig = `version = CONFIG_VERSION
root = "DIR/r"
state = "RUN/s"
[grpc]
  address = "RUN/s.sock"
[ttrpc]
  address = "RUN/t.sock"
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "DIR/cni"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "DIR/cni"
`

const crioConfig = `[crio]
root = "DIR/r"
runroot = "RUN/run"
log_dir = "DIR/logs"
storage_driver = "overlay"
version_file = "DIR/version"
clean_shutdown_file = "DIR/clean"
[crio.api]
listen = "RUN/s.sock"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_exits_dir = "RUN/exits"
container_attach_socket_dir = "RUN/attach"
namespaces_dir = "RUN/ns"
default_runtime = "runc"
log_level = "warn"
[crio.runtime.runtimes.runc]
runtime_path = "RUNC"
runtime_root = "RUN/runc"
monitor_cgroup = "pod"
[crio.image]
pause_image = "PAUSE"
signature_policy = "DIR/policy.json"
[crio.network]
network_dir = "DIR/cni"
plugin_dirs = ["/usr/lib/cni"]
`

// crioRegistries is of all ports: the CRI tests have a registry on one of its own.
const crioRegistries = "[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n"

// launch prepares a runtime of that kind and starts it; nil if it is not on PATH.
func launch(name string, at *registry) (*endpoint, error) {
	k, ok := kinds[name]
	if !ok {
		return nil, fmt.Errorf("cannot start %q: known are cri-box, containerd and cri-o", name)
	}
	program, err := exec.LookPath(k.program)
	if err != nil {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	run, err := os.MkdirTemp(memoryDir(), "bench")
	if err != nil {
		return nil, err
	}
	runc, _ := exec.LookPath("runc") // "" if it is not there, and the runtime says so
	r := strings.NewReplacer("DIR", dir, "RUN/", run+"/", "PAUSE", at.pause, "RUNC", runc, "CONFIG_VERSION", configVersion(program))
	for file, text := range k.files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(r.Replace(text)), 0o644); err != nil {
			return nil, err
		}
	}
	d := &daemon{dir: dir, run: run, argv: k.argv(dir, run, program), env: []string{"HOME=" + dir}}
	if d.net, err = at.join(); err != nil {
		return nil, err
	}
	return &endpoint{name: name, socket: filepath.Join(run, k.socket), daemon: d, processes: regexp.MustCompile(k.processes),
		results: map[string][]float64{}}, d.start()
}

// memoryDir is a directory in memory, as /run is on a node: there, what ends with
// the boot is.
func memoryDir() string {
	for _, dir := range []string{"/run", "/dev/shm"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.TMPFS_MAGIC {
			return dir
		}
	}
	return ""
}

// configVersion is 2 for containerd 1.x.
func configVersion(program string) string {
	out, err := exec.Command(program, "--version").Output()
	if err == nil && strings.Contains(string(out), " 1.") {
		return "2"
	}
	return "3"
}

// started are the endpoints of the runtimes that are here.
func started(names []string, at *registry) (endpoints, error) {
	var l endpoints
	for _, name := range names {
		e, err := launch(name, at)
		if err != nil {
			return l, err
		}
		if e == nil {
			fmt.Fprintf(os.Stderr, "bench: %s is not on PATH and stays out\n", name)
			continue
		}
		l = append(l, e)
	}
	return l, nil
}
