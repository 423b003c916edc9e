// Package mode picks the network that pods get:
//
//	embedded  always the embedded one
//	cni       always plugins; not ready until a configuration can be used
//	auto      the embedded one until there is a configuration that can be used;
//	          never back once plugins have attached a pod
//
// A pod is detached by whoever attached it, also after the mode was changed.
package mode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/cni"
	"github.com/cri-box/cri-box/network/routed"
)

// The modes.
const (
	Auto     = "auto"
	Embedded = "embedded"
	CNI      = "cni"
)

// Config is what Open needs.
type Config struct {
	// Mode is Auto, Embedded or CNI.
	Mode string
	// KubeletCIDR makes the embedded network wait for the range that the kubelet
	// sends (SetPodCIDR) and use it in place of those in Routed.
	KubeletCIDR bool
	// Dir is for what has to survive the boot: <root>/network.
	Dir string
	// Routed and CNI are the networks' own.
	Routed routed.Config
	CNI    cni.Config
}

// Network is the network of one instance, whichever it is at the moment. It
// implements network.Network.
type Network struct {
	cfg Config
	cni *cni.Network // nil in mode embedded

	// mu is written while the embedded network is replaced. It is never held over a
	// plugin: who waits to write keeps everybody from reading, Status too.
	mu       sync.RWMutex
	embedded *routed.Network
	cidrs    []netip.Prefix // as the kubelet sent them
	refused  error          // why what it sent last cannot be used
	served   atomic.Bool    // plugins have attached a pod, ever
}

var _ network.Network = (*Network)(nil)

// errNoCIDR is why no pod starts before the kubelet has spoken.
var errNoCIDR = errors.New(`pod_cidr = "kubelet" and the kubelet has not sent this node's pod CIDR yet ` +
	`(UpdateRuntimeConfig; is the controller manager started with --allocate-node-cidrs?)`)

func (n *Network) noCIDR() error { return cmp.Or(n.refused, errNoCIDR) }

// Open opens what the mode needs, and what pods of an earlier mode still need.
func Open(cfg Config) (*Network, error) {
	switch cfg.Mode {
	case Auto, Embedded, CNI:
	default:
		return nil, fmt.Errorf("cannot use network mode %q: it has to be auto, embedded or cni", cfg.Mode)
	}
	n := &Network{cfg: cfg}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make network directory: %w", err)
	}
	_, err := os.Stat(n.servedPath())
	n.served.Store(err == nil)
	if err := n.recallCIDR(); err != nil {
		return nil, err
	}
	if err := n.openParts(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// openParts opens the plugins unless nothing but the embedded network is wanted
// and no pod of theirs is left, and the embedded network likewise.
func (n *Network) openParts() (err error) {
	if n.cfg.Mode != Embedded || left(filepath.Join(n.cfg.CNI.Dir, "attached")) {
		if n.cni, err = cni.Open(n.cfg.CNI); err != nil {
			return err
		}
		n.cni.SetPodCIDR(n.cidrs)
	}
	if n.cfg.Mode != CNI || left(filepath.Join(n.cfg.Routed.StateDir, "ipam")) {
		return n.openEmbedded()
	}
	return nil
}

// left says whether a directory has a file that is named after a pod.
func left(dir string) bool {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.Trim(entry.Name(), "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// openEmbedded opens the embedded network once its ranges are known.
func (n *Network) openEmbedded() error {
	if n.cfg.KubeletCIDR && len(n.cidrs) == 0 {
		return nil // Ready tells it
	}
	embedded, err := routed.Open(n.routedConfig(n.cidrs))
	if err == nil {
		n.embedded = embedded
	}
	return err
}

// routedConfig is the embedded network's with what the kubelet sent.
func (n *Network) routedConfig(cidrs []netip.Prefix) routed.Config {
	cfg := n.cfg.Routed
	if n.cfg.KubeletCIDR {
		cfg.IPv4, cfg.IPv6 = split(cidrs)
	}
	return cfg
}

// useCNI says whether new pods get plugins.
func (n *Network) useCNI() bool {
	switch n.cfg.Mode {
	case CNI:
		return true
	case Auto:
		return n.served.Load() || n.cni.Configured()
	}
	return false
}

// Ahead implements network.Network.
func (n *Network) Ahead(ctx context.Context, id string, netns int) (io.Closer, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.useCNI() || n.embedded == nil {
		return nil, nil
	}
	return n.embedded.Ahead(ctx, id, netns)
}

// Attach implements network.Network.
func (n *Network) Attach(ctx context.Context, pod network.Pod) (network.Result, error) {
	if n.useCNI() {
		return n.attachCNI(ctx, pod)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.embedded == nil {
		return network.Result{}, fmt.Errorf("%w: %w", network.ErrNotReady, n.noCIDR())
	}
	return n.embedded.Attach(ctx, pod)
}

// attachCNI gives plugins an empty namespace: what the embedded network made in it
// before they came is removed.
func (n *Network) attachCNI(ctx context.Context, pod network.Pod) (network.Result, error) {
	if link, ok := pod.Link.(*routed.Link); ok {
		pod.Link = nil
		if err := link.Remove(); err != nil {
			return network.Result{}, err
		}
	}
	if err := n.cni.Ready(); err != nil {
		return network.Result{}, fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	if err := n.noteServed(); err != nil {
		return network.Result{}, err
	}
	return n.cni.Attach(ctx, pod)
}

// Detach implements network.Network: a pod that one of the two does not know is
// nothing to it.
func (n *Network) Detach(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		if n.cni != nil && n.cni.Attached(id) {
			errs = append(errs, n.cni.Detach(ctx, id))
		} else {
			errs = append(errs, n.detachEmbedded(ctx, id))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) detachEmbedded(ctx context.Context, id string) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.embedded == nil {
		return nil
	}
	return n.embedded.Detach(ctx, id)
}

// Ready implements network.Network.
func (n *Network) Ready() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var embedded error
	if n.embedded != nil { // also mends what its pods of an earlier mode need
		embedded = n.embedded.Ready()
	}
	if n.useCNI() {
		return n.cni.Ready()
	}
	if n.embedded == nil {
		return n.noCIDR()
	}
	return embedded
}

// Note is for a person what does not keep pods from starting; it may be empty.
func (n *Network) Note() string {
	if !n.useCNI() {
		return ""
	}
	return n.cni.Note()
}

// Sweep implements network.Network.
func (n *Network) Sweep(ctx context.Context, keep func(podID8 string) bool) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var errs []error
	if n.cni != nil {
		errs = append(errs, n.cni.Sweep(ctx, keep))
	}
	if n.embedded != nil {
		errs = append(errs, n.embedded.Sweep(ctx, keep))
	}
	return errors.Join(errs...)
}

// Pending counts the pods that ended and are still attached somewhere: DELs that
// are tried again.
func (n *Network) Pending() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.cni == nil {
		return 0
	}
	return n.cni.Pending()
}

// Close implements network.Network.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	if n.cni != nil {
		errs = append(errs, n.cni.Close())
	}
	if n.embedded != nil {
		errs = append(errs, n.embedded.Close())
	}
	return errors.Join(errs...)
}

func (n *Network) servedPath() string { return filepath.Join(n.cfg.Dir, "cni-served") }

// noteServed makes the way back to the embedded network impossible, also for the
// next daemon. Two pods at once may both write.
func (n *Network) noteServed() error {
	if n.served.Load() || n.cfg.Mode != Auto {
		return nil
	}
	err := os.WriteFile(n.servedPath(), []byte("plugins have attached a pod: mode auto does not go back to the embedded network\n"), 0o600)
	if err != nil {
		return fmt.Errorf("cannot note that plugins serve: %w", err)
	}
	n.served.Store(true)
	slog.Info("pods get their network from CNI plugins from now on")
	return nil
}

// SetPodCIDR takes over the range that the kubelet sent: one, or two of different
// families, comma-separated. Twice the same is a no-op; empty is ignored, as the
// kubelet sends it on a node without one.
func (n *Network) SetPodCIDR(text string) error {
	if text == "" {
		return nil
	}
	cidrs, err := ParseCIDRs(text)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	same := fmt.Sprint(cidrs) == fmt.Sprint(n.cidrs)
	if same && (n.embedded != nil || !n.cfg.KubeletCIDR) {
		return nil
	}
	forPlugins := !n.cfg.KubeletCIDR || n.cfg.Mode == CNI && n.embedded == nil
	if !forPlugins { // looked at first: it must not end the network that serves, nor keep the next daemon from starting
		if n.refused = n.routedConfig(cidrs).Check(); n.refused != nil {
			return n.refused
		}
	}
	if err := n.storeCIDR(text); err != nil {
		return err
	}
	n.cidrs = cidrs
	if n.cni != nil {
		n.cni.SetPodCIDR(cidrs)
	}
	if forPlugins {
		return nil
	}
	if n.embedded != nil { // pods keep their leases: they are files
		if err := n.embedded.Close(); err != nil {
			return err
		}
		n.embedded = nil
	}
	return n.openEmbedded()
}

func (n *Network) cidrPath() string { return filepath.Join(n.cfg.Dir, "pod-cidr") }

func (n *Network) storeCIDR(text string) error {
	path := n.cidrPath()
	if err := os.WriteFile(path+".tmp", []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot store pod CIDR: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("cannot store pod CIDR: %w", err)
	}
	return nil
}

// recallCIDR reads what the kubelet sent to an earlier daemon: it does not send it
// again when only the daemon was restarted.
func (n *Network) recallCIDR() error {
	data, err := os.ReadFile(n.cidrPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read pod CIDR: %w", err)
	}
	cidrs, err := ParseCIDRs(strings.TrimSpace(string(data)))
	if err == nil && n.cfg.KubeletCIDR && n.cfg.Mode != CNI {
		err = n.routedConfig(cidrs).Check() // the host may have lost its IPv6
	}
	if err != nil {
		slog.Warn("stored pod CIDR cannot be used; waiting for the kubelet's", "error", err)
		return nil
	}
	n.cidrs = cidrs
	return nil
}

// ParseCIDRs reads one range, or two of different families, comma-separated.
func ParseCIDRs(text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("cannot use pod CIDR %q: it has to be a range such as 10.244.1.0/24, or two of different families with a comma", text)
		}
		out = append(out, p)
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4() {
		return nil, fmt.Errorf("cannot use pod CIDR %q: at most one range of each family", text)
	}
	return out, nil
}

func split(cidrs []netip.Prefix) (v4, v6 netip.Prefix) {
	for _, p := range cidrs {
		if p.Addr().Is4() {
			v4 = p
		} else {
			v6 = p
		}
	}
	return v4, v6
}
