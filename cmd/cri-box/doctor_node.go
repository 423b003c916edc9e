package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/network/mode"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// strange are file systems that the root directory must not be on: overlay does
// not stack on them, or they hang with their server.
var strange = map[int64]string{
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC:       "NFS",
	unix.FUSE_SUPER_MAGIC:      "FUSE",
	unix.SMB2_SUPER_MAGIC:      "SMB",
	unix.V9FS_MAGIC:            "9p",
}

func lookDirectories(s settings) []finding {
	var list []finding
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{s.root, 0o700}, {s.state, 0o711}} {
		info, err := os.Stat(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			list = append(list, finding{What: d.path + " is not there yet: serve makes it", State: good})
		} else {
			list = append(list, check(err == nil && info.IsDir() && info.Mode().Perm() == d.mode, d.path, bad,
				"others may reach files of images that are set-user-id", fmt.Sprintf("chmod %o %s, or restart the daemon", d.mode, d.path)))
		}
		list = append(list, lookFilesystem(d.path, d.mode == 0o700)...)
	}
	return list
}

// lookFilesystem looks at the file system that a directory is or will be on.
func lookFilesystem(path string, layers bool) []finding {
	var st unix.Statfs_t
	for unix.Statfs(path, &st) != nil {
		if path == "/" {
			return []finding{{What: "file system", State: bad, Consequence: "it cannot be looked at", Remedy: "run the doctor as root"}}
		}
		path = filepath.Dir(path)
	}
	const readOnly = 1 // ST_RDONLY, statfs(2)
	list := []finding{check(st.Flags&readOnly == 0, path+" can be written", bad, "nothing can be kept", "mount it for writing")}
	if !layers {
		return list
	}
	name := strange[st.Type]
	list = append(list, check(name == "", "file system of "+path, bad, "images cannot be kept on "+name, "give [root] a directory on ext4, xfs or btrfs"))
	free := uint64(st.Bsize) * st.Bavail
	percent := uint64(100)
	if st.Blocks > 0 {
		percent = 100 * st.Bavail / st.Blocks
	}
	list = append(list, check(percent >= 15 || free > 100<<30, fmt.Sprintf("%s free for images (%d %%)", bytesText(free), percent), note,
		"the kubelet removes images and evicts pods below 15 %", "cri-box images ls shows what takes the space"))
	if st.Files > 0 {
		list = append(list, check(100*st.Ffree/st.Files >= 5, fmt.Sprintf("%d inodes free", st.Ffree), note, "images of many small files fail with \"no space left on device\"", "use a file system with more inodes"))
	}
	return list
}

func lookNetwork(ctx context.Context, c *client) []finding {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	list := []finding{check(err == nil, "nftables", bad, fmt.Sprintf("the embedded network and host ports do not work: %v", err), "use a kernel with CONFIG_NF_TABLES")}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	uplink := false
	for _, r := range routes {
		uplink = uplink || r.Dst == nil || r.Dst.IP.Equal(net.IPv4zero)
	}
	list = append(list,
		check(err == nil && uplink, "default route", note, "pods reach this node only, and the interfaces' MTU is that of Ethernet", "connect the machine"),
		check(readText("/proc/sys/net/ipv6/conf/all/disable_ipv6") == "0", "IPv6", note, "pods get IPv4 addresses only", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"))
	list = append(list, check(readText("/proc/sys/net/ipv4/ip_forward") == "1", "IP forwarding", note,
		"the embedded network turns it on by itself, plugins may not: pods would reach this node only", "sysctl -w net.ipv4.ip_forward=1"))
	var r mode.Report
	if err := c.askJSON(ctx, "/network", &r); err != nil {
		return append(list, finding{What: "network of the daemon", State: note, Consequence: "it is not known which network pods get: " + err.Error(), Remedy: "start the daemon; cri-box doctor network then says more"})
	}
	return append(list, check(r.NotReady == "", fmt.Sprintf("network: %s serves (mode %s)", r.Serves, r.Mode), bad,
		fmt.Sprintf("no pod with a network of its own can start: %s (%s)", r.NotReady, r.Why), "cri-box doctor network says where a configuration was looked for; the cluster's network has to write it"))
}

// lookRegistries has the daemon read what certs_dirs say of each registry.
func lookRegistries(ctx context.Context, c *client) []finding {
	var list []finding
	for _, dir := range c.settings.config.Image.CertsDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			list = append(list, finding{What: dir, State: bad, Consequence: err.Error(), Remedy: "make it readable for root"})
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if info, err := os.Stat(path); err == nil && info.IsDir() { // or a link to one
				list = append(list, lookRegistry(ctx, c, path))
			}
		}
	}
	if len(list) == 0 {
		return []finding{{What: "no registry is configured: each is asked by HTTPS at its own name", State: good}}
	}
	return list
}

func lookRegistry(ctx context.Context, c *client, dir string) finding {
	host := filepath.Base(dir)
	asked := host
	if host == "_default" { // that of registries without a directory
		asked = "registry.invalid"
	} else if name, port, ok := strings.Cut(strings.Trim(host, "_"), "_"); ok { // host_port_, as containerd has it
		host = name + ":" + port
		asked = host
	}
	var plan image.Plan
	err := c.askJSON(ctx, "/images/explain?ref="+url.QueryEscape(asked+"/x"), &plan)
	if away := (*net.OpError)(nil); errors.As(err, &away) {
		return finding{What: "registry " + host, State: note, Consequence: "it is not known whether its configuration is right: " + err.Error(), Remedy: "start the daemon"}
	}
	if err != nil {
		return finding{What: "registry " + host, State: bad, Consequence: "pulls from it fail: " + err.Error(), Remedy: "correct " + filepath.Join(dir, "hosts.toml")}
	}
	return check(plan.Directory == dir, fmt.Sprintf("registry %s: %d hosts", host, len(plan.Hosts)), note,
		fmt.Sprintf("%s is not used: %s has its configuration from %q", dir, plan.Name, plan.Directory), "name it as the images' registry, host or host_port_, and have it in one of image.certs_dirs only")
}

func lookDaemon(ctx context.Context, c *client) []finding {
	list := lookRunning(ctx, c)
	switch err := c.settings.wrong; {
	case errors.Is(err, fs.ErrPermission): // ours; root's daemon may read them
		list = append(list, finding{What: "configuration files", State: note, Consequence: "it is not known whether they are right: " + err.Error(), Remedy: "run the doctor as root"})
	case err != nil:
		list = append(list, finding{What: "configuration files", State: bad, Consequence: "no daemon starts with them: " + err.Error(), Remedy: "correct what the message names; cri-box config check FILE judges a file"})
	}
	return list
}

func lookRunning(ctx context.Context, c *client) []finding {
	info, err := os.Stat(c.settings.listen)
	if err != nil {
		return []finding{{What: "daemon", State: note, Consequence: "it does not run: " + err.Error(), Remedy: "systemctl start cri-box, or cri-box serve"}}
	}
	resp, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return []finding{{What: "daemon", State: bad, Consequence: plain(err, c.settings.listen).Error(), Remedy: "see its log: journalctl -u cri-box"}}
	}
	list := lookSocket(info)
	for _, cond := range resp.GetStatus().GetConditions() {
		list = append(list, check(cond.Status, cond.Type, bad, cond.Message, "the message says what is missing"))
	}
	var loaded struct{ Result string }
	json.Unmarshal([]byte(resp.Info["configuration"]), &loaded)
	return append(list, check(loaded.Result == "OK", "configuration", note, "the last change is not in effect: "+loaded.Result, "correct the file, then send SIGHUP to the daemon"))
}

// socketMode is what the daemon makes its sockets with.
const socketMode = 0o600

// lookSocket says what is wrong with the daemon's socket, if anything is.
func lookSocket(info fs.FileInfo) []finding {
	if info.Mode().Perm() == socketMode {
		return nil
	}
	return []finding{{What: "socket of the daemon", State: note, Consequence: fmt.Sprintf("its mode is %o, not %o: others can connect, and keep the daemon busy with refusing them", info.Mode().Perm(), socketMode),
		Remedy: fmt.Sprintf("chmod %o, or restart the daemon", socketMode)}}
}

// askJSON asks the daemon's own socket.
func (c *client) askJSON(ctx context.Context, path string, v any) error {
	body, err := ask(ctx, c.settings.state, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(v)
}
