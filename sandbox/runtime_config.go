package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox/record"
)

// nodeKind is the record of what the kubelet told about the node.
var nodeKind = record.Kind{Name: "node", Version: 1}

type nodeRecord struct {
	PodCIDRs []netip.Prefix `json:"pod_cidrs"`
}

func (m *Manager) nodeDir() string { return filepath.Join(m.cfg.RootDir, "node") }

// SetPodCIDR records the node's range of pod addresses: one CIDR or, with two
// IP families, two with a comma between. "" changes nothing.
func (m *Manager) SetPodCIDR(text string) error {
	if text == "" {
		return nil
	}
	var n nodeRecord
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(part)
		if err != nil || p != p.Masked() {
			return fmt.Errorf("runtime_config.network_config.pod_cidr %q is no range such as 10.244.1.0/24, or two with a comma between: %w", text, spec.ErrInvalid)
		}
		n.PodCIDRs = append(n.PodCIDRs, p)
	}
	if err := os.MkdirAll(m.nodeDir(), 0o711); err != nil {
		return fmt.Errorf("cannot record pod CIDR: %w", err)
	}
	return nodeKind.Save(m.nodeDir(), n)
}

// PodCIDRs are what SetPodCIDR recorded last, also before a restart.
func (m *Manager) PodCIDRs() ([]netip.Prefix, error) {
	var n nodeRecord
	err := nodeKind.Load(m.nodeDir(), &n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return n.PodCIDRs, err
}
