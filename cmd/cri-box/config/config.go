// Package config is the daemon's configuration: /etc/cri-box/config.toml, the
// files beside it in conf.d, and the command line.
//
// Config holds for each setting its name, default, meaning and what is accepted,
// in tags beside the field. What `cri-box config default` prints, what a file is
// judged by and what a running daemon takes over are all made from these tags; a
// new setting is one field here and the line in serve.go that uses it.
//
//	toml     the key
//	default  the value without a file, as TOML
//	accept   what is right: a set "a|b", a range "1..64", or a name in accept.go
//	help     the meaning
//	reload   "yes": SIGHUP puts a change into effect
package config

import (
	"net/netip"
	"path/filepath"
	"time"
)

// Config is all settings.
type Config struct {
	Listen string `toml:"listen" default:"''" accept:"socket" help:"Path of the socket that kubelet and crictl talk to. Empty: cri-box.sock in the state directory."`
	Root   string `toml:"root" default:"'/var/lib/cri-box'" accept:"directory" help:"Directory of images, layers and records: what stays over a boot."`
	State  string `toml:"state" default:"'/run/cri-box'" accept:"directory" help:"Directory of what ends with the boot. Its name tells daemons on one machine apart."`

	Log       Log       `toml:"log" help:"What the daemon writes to standard error. Secrets are never in it."`
	Image     Image     `toml:"image" help:"Pulling and keeping images."`
	Network   Network   `toml:"network" help:"The pods' network."`
	Metrics   Metrics   `toml:"metrics" help:"What Prometheus reads of the daemon."`
	Cgroup    Cgroup    `toml:"cgroup" help:"Control groups."`
	Tracing   Tracing   `toml:"tracing" help:"Spans of calls and their steps, for OpenTelemetry."`
	Container Container `toml:"container" help:"What containers get where neither the request nor the image says otherwise."`
}

// Log is the table [log].
type Log struct {
	Level  string `toml:"level" default:"'info'" accept:"debug|info|warn|error" reload:"yes" help:"The least important messages that are written."`
	Format string `toml:"format" default:"'text'" accept:"text|json" reload:"yes" help:"text: key=value. json: one object a line."`
}

// Metrics is the table [metrics].
type Metrics struct {
	Address string `toml:"address" default:"''" accept:"address" help:"Address at which GET /metrics answers, such as '127.0.0.1:9437'. Empty: only the daemon's own socket does."`
}

// Cgroup is the table [cgroup].
type Cgroup struct {
	Driver string `toml:"driver" default:"'auto'" accept:"auto|cgroupfs|systemd" help:"Who the pods' groups belong to: nobody else (cgroupfs), or systemd, which is told of each container as a scope. The kubelet asks for it. auto: systemd where it is the first process and control groups are v2."`
}

// Tracing is the table [tracing].
type Tracing struct {
	Endpoint string `toml:"endpoint" default:"''" accept:"endpoint" help:"Where spans go by OTLP over gRPC, such as '127.0.0.1:4317'. Empty: nobody is told. Calls that the kubelet traces join its traces."`
	Sampling int    `toml:"sampling_per_million" default:"0" accept:"0..1000000" help:"Of a million calls that nobody else traces, how many are."`
}

// Image is the table [image].
type Image struct {
	CertsDirs           []string      `toml:"certs_dirs" default:"['/etc/cri-box/certs.d']" accept:"directory" reload:"yes" help:"Directories with <host>/hosts.toml or certificates. The first that knows a host wins; read at every pull."`
	VerifierDir         string        `toml:"verifier_dir" default:"'/opt/cri-box/image-verifier/bin'" accept:"directory" reload:"yes" help:"Directory of programs that each have to accept an image before it is pulled. They are called as containerd calls its image verifiers. None where it does not exist."`
	MaxConcurrentLayers int           `toml:"max_concurrent_layers" default:"4" accept:"1..64" help:"Layers that are downloaded and unpacked at a time, over all pulls; a registry has one place in any case."`
	Pinned              []string      `toml:"pinned" default:"[]" accept:"word" reload:"yes" help:"Names of images that the kubelet must not remove; * stands for anything."`
	StallTimeout        time.Duration `toml:"stall_timeout" default:"'30s'" accept:"1s..1h" reload:"yes" help:"How long a registry may send nothing before the connection is given up and resumed."`
	Limits              Limits        `toml:"limits" help:"What one layer may hold; a layer above that is refused."`
}

// Limits is the table [image.limits].
type Limits struct {
	Entries    int  `toml:"entries" default:"2000000" accept:"1..100000000" reload:"yes" help:"Files, directories and links."`
	Bytes      Size `toml:"bytes" default:"'128GiB'" accept:"1MiB..16TiB" reload:"yes" help:"Length of the archive, and sum of the files' sizes."`
	Depth      int  `toml:"depth" default:"256" accept:"1..2048" reload:"yes" help:"Components of a path."`
	PathLength int  `toml:"path_length" default:"4095" accept:"64..4095" reload:"yes" help:"Bytes of a path or of a link's target."`
}

// Network is the table [network].
type Network struct {
	Mode         string         `toml:"mode" default:"'auto'" accept:"auto|embedded|cni" help:"embedded: cri-box's own network. cni: the plugins of the cluster. auto: embedded until the CNI directory holds a valid configuration."`
	IPv4         netip.Prefix   `toml:"ipv4" default:"'10.88.0.0/16'" accept:"ipv4" help:"IPv4 range of the embedded network's pods. Empty: none."`
	IPv6         netip.Prefix   `toml:"ipv6" default:"'fd63:7269:626f:7800::/64'" accept:"ipv6" help:"IPv6 range of the embedded network's pods. Empty: none."`
	PodCIDR      string         `toml:"pod_cidr" default:"'config'" accept:"config|kubelet" help:"config: the ranges above. kubelet: the range that the kubelet gives; no pod starts before it came."`
	NoMasquerade []netip.Prefix `toml:"no_masquerade" default:"[]" accept:"range" help:"Ranges that see a pod's own address, as the pods of this node do: those of the other nodes' pods, where the nodes have routes to each other's. All others see the node's."`
	MTU          int            `toml:"mtu" default:"0" accept:"0..65535" help:"Largest packet of the pods' interfaces in bytes. 0: that of the node's uplink."`
	CNI          CNI            `toml:"cni" help:"Where the cluster's network plugins are."`
}

// CNI is the table [network.cni].
type CNI struct {
	ConfDir string   `toml:"conf_dir" default:"'/etc/cni/net.d'" accept:"directory" help:"Directory of network configurations. The first by name counts."`
	BinDirs []string `toml:"bin_dirs" default:"['/opt/cni/bin']" accept:"directory" help:"Directories of plugin programs, the first that has one wins."`
}

// Container is the table [container].
type Container struct {
	Path              string   `toml:"path" default:"'/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'" accept:"path list" reload:"yes" help:"PATH where neither image nor request sets it."`
	Capabilities      []string `toml:"capabilities" default:"['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP', 'NET_BIND_SERVICE', 'NET_RAW', 'SYS_CHROOT', 'MKNOD', 'AUDIT_WRITE', 'SETFCAP']" accept:"capability" reload:"yes" help:"Capabilities of a container that is not privileged, before the request adds and drops."`
	Ulimits           []Ulimit `toml:"ulimits" default:"['nofile=1024:524288']" accept:"ulimit" reload:"yes" help:"Resource limits (setrlimit(2)), soft and hard."`
	PidsLimit         int64    `toml:"pids_limit" default:"0" accept:"0..4194304" reload:"yes" help:"Processes and threads of a container. 0: no limit but the pod's."`
	ShmSize           Size     `toml:"shm_size" default:"'64MiB'" accept:"64KiB..1TiB" reload:"yes" help:"Size of a new pod's /dev/shm."`
	MissingBindSource string   `toml:"missing_bind_source" default:"'error'" accept:"error|create" reload:"yes" help:"What happens when the source of a bind mount does not exist. create: it becomes a directory, as with Docker."`
	MaxLogLine        Size     `toml:"max_log_line" default:"'16KiB'" accept:"256B..32KiB" help:"Length above which a line of a container's log is split."`
}

// Default is where the file is that a daemon reads without being told.
const Default = "/etc/cri-box/config.toml"

// DefaultState is the state directory whose daemon has no prefix of its own.
const DefaultState = "/run/cri-box"

// socketName is that of the CRI socket in the state directory.
const socketName = "cri-box.sock"

// Socket is the path of the CRI socket.
func (c *Config) Socket() string {
	if c.Listen == "" {
		return filepath.Join(c.State, socketName)
	}
	return c.Listen
}
