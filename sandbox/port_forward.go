package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/cri-box/cri-box/network/netns"
)

// dialBound is how long a port of a pod may take to accept.
const dialBound = 10 * time.Second

// Dial connects to a port on the loopback of a pod that is ready, or of the node
// if the pod is on its network.
func (m *Manager) Dial(ctx context.Context, podID string, port uint16) (*net.TCPConn, error) {
	p, err := m.Forwardable(podID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	var ns *os.File
	if !p.hostNetwork() {
		if ns, err = m.cfg.Custody.FD(p.ID, "net"); err != nil {
			return nil, err
		}
		defer ns.Close()
	}
	return netns.Dial(ctx, ns, port)
}

// Forwardable returns a pod that is ready.
func (m *Manager) Forwardable(podID string) (*Pod, error) {
	p, err := m.Pod(podID)
	if err != nil {
		return nil, err
	}
	if !p.Ready() {
		return nil, fmt.Errorf("cannot forward to pod %s: it is not ready: %w", p.ID, ErrState)
	}
	return p, nil
}
