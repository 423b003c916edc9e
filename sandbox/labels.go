package sandbox

import (
	"fmt"
	"path"

	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkLabels refuses SELinux options that cannot be had.
func (m *Manager) checkLabels(o *runtimeapi.SELinuxOption) error {
	const field = "linux.security_context.selinux_options"
	options := labelOptions(o)
	if options != (label.Options{}) && !m.cfg.Labels.Active() {
		return fmt.Errorf("%s: SELinux is not active on this node, or has no policy for containers: %w", field, spec.ErrInvalid)
	}
	if err := options.Check(); err != nil {
		return fmt.Errorf("%s: %w: %w", field, err, spec.ErrInvalid)
	}
	return nil
}

func labelOptions(o *runtimeapi.SELinuxOption) label.Options {
	return label.Options{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}

// labelPod gives a new pod its labels; forgetPod takes them back.
func (m *Manager) labelPod(p *Pod) (err error) {
	p.Labels, err = m.cfg.Labels.New(labelOptions(p.Config.Of.GetLinux().GetSecurityContext().GetSelinuxOptions()))
	return err
}

// label gives the container its pod's labels, changed by what it asks for itself;
// a privileged one has none.
func (n *newContainer) label() (label.Labels, error) {
	sc := n.ctr.Config.Of.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() {
		return label.Labels{}, nil
	}
	l, err := n.pod.Labels.With(labelOptions(sc.GetSelinuxOptions()))
	if err != nil {
		return l, err
	}
	n.ctr.Bundle.MountLabel = l.Mount
	for _, mt := range n.ctr.Config.Of.GetMounts() {
		if mt.GetSelinuxRelabel() && l.Mount != "" {
			if n.ctr.Bundle.Relabel == nil {
				n.ctr.Bundle.Relabel = map[string]bool{}
			}
			n.ctr.Bundle.Relabel[path.Clean(mt.GetContainerPath())] = true
		}
	}
	return l, nil
}
