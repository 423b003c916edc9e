package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The files that a pod's containers find in /etc where the kubelet gives none.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
)

// maxHostFile bounds what is copied from the node's own /etc, in bytes.
const maxHostFile = 1 << 20

func (m *Manager) podFile(id, name string) string { return filepath.Join(m.podState(id), name) }

// writeFiles writes hostname and resolv.conf; hosts needs the address.
func (u *podUp) writeFiles(context.Context) error {
	name := u.pod.hostname()
	if u.pod.hostNetwork() {
		var err error
		if name, err = os.Hostname(); err != nil {
			return err
		}
	}
	if err := u.write(hostnameFile, []byte(name+"\n")); err != nil {
		return err
	}
	resolv, err := u.resolvConf()
	if err != nil {
		return err
	}
	return u.write(resolvFile, resolv)
}

func (u *podUp) write(name string, content []byte) error {
	path := u.podFile(u.pod.ID, name)
	if err := os.WriteFile(path, content, 0o644); err != nil || u.pod.ids().IsZero() {
		return err
	}
	uid, gid := u.pod.ids().Root() // who may change them as in any other pod
	return os.Chown(path, uid, gid)
}

// resolvConf is what the request says, in its order, else the node's own file.
func (u *podUp) resolvConf() ([]byte, error) {
	dns := u.pod.Config.Of.GetDnsConfig()
	if dns == nil {
		return hostResolvConf()
	}
	var b bytes.Buffer
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, s := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return b.Bytes(), nil
}

// hostResolvConf is the node's resolv.conf. systemd-resolved's stub listens on
// the node's loopback, where no pod reaches it: then its own list is taken.
func hostResolvConf() ([]byte, error) {
	b, err := readHostFile("/etc/resolv.conf")
	if err == nil && bytes.Contains(b, []byte("127.0.0.53")) {
		if direct, err := readHostFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return direct, nil
		}
	}
	if os.IsNotExist(err) {
		return nil, nil
	}
	return b, err
}

func readHostFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxHostFile))
}

const localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// writeHosts writes the pod's /etc/hosts.
func (u *podUp) writeHosts() error {
	if u.pod.hostNetwork() {
		b, err := readHostFile("/etc/hosts")
		if os.IsNotExist(err) {
			b, err = []byte(localhost), nil
		}
		if err != nil {
			return err
		}
		return u.write(hostsFile, b)
	}
	b := []byte(localhost)
	for _, ip := range u.pod.Network.IPs {
		b = fmt.Appendf(b, "%s\t%s\n", ip, u.pod.hostname())
	}
	return u.write(hostsFile, b)
}
