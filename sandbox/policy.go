package sandbox

import "github.com/cri-box/cri-box/oci/spec"

// Policy is what the administrator decides for pods and containers made from
// now on.
type Policy struct {
	Defaults spec.Defaults
	// MakeSources: a missing source of a bind mount becomes a directory.
	MakeSources bool
	// ShmSize is the size of a pod's /dev/shm in bytes.
	ShmSize int64
}

// SetPolicy puts p into effect as a whole. What exists already stays as it is.
func (m *Manager) SetPolicy(p Policy) { m.policy.Store(&p) }
