package sandbox

import (
	"context"
	"fmt"
	"maps"
	"os"

	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ids are those of the pod's user namespace; zero: it has none.
func (p *Pod) ids() spec.IDs { return spec.SandboxIDs(p.Config.Of) }

// UserNamespaces says whether pods can have user namespaces.
func (m *Manager) UserNamespaces() bool { return m.cfg.Host.NoUserNamespaces == "" }

// checkUsers refuses a user namespace where the node has none to give.
func (m *Manager) checkUsers(c *runtimeapi.PodSandboxConfig) error {
	if why := m.cfg.Host.NoUserNamespaces; why != "" && !spec.SandboxIDs(c).IsZero() {
		return fmt.Errorf("linux.security_context.namespace_options.userns_options.mode POD: this node cannot give pods user namespaces: %s: %w", why, spec.ErrInvalid)
	}
	return nil
}

// newNamespaces makes what the pod has of its own, by name; a pod's user namespace
// owns them.
func (u *podUp) newNamespaces(ctx context.Context) (map[string]*os.File, error) {
	if ids := u.pod.ids(); !ids.IsZero() {
		return u.namespacesOf(ctx, u.pod.ID, u.own, oci.NamespaceSet{IDs: ids})
	}
	if u.own.NoNet && !u.own.IPC && !u.own.UTS {
		return map[string]*os.File{}, nil
	}
	if u.ahead != nil {
		if err := u.spaces.ahead.Settle(u.ahead, u.own); err != nil {
			return nil, err
		}
		u.taken = true
		return u.ahead.Files(), nil
	}
	set, err := netns.New(ctx, u.own)
	if err != nil {
		return nil, err
	}
	return set.Files(), nil
}

// namespacesOf makes those of opts in a new user namespace, or in the one that
// set joins.
func (m *Manager) namespacesOf(ctx context.Context, podID string, opts netns.Options, set oci.NamespaceSet) (map[string]*os.File, error) {
	set.Net, set.IPC, set.UTS = !opts.NoNet, opts.IPC, opts.UTS
	files, err := m.cfg.Runtime.UserNamespaces(ctx, podID, set)
	if err != nil {
		return nil, err
	}
	opts.Owner, _ = set.IDs.Root()
	if err := (&netns.Set{Net: files["net"], IPC: files["ipc"], UTS: files["uts"]}).Furnish(opts); err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

// fillUsers finds the user namespace by what it owns, or makes it anew where it
// owned nothing that is left.
func (m *Manager) fillUsers(ctx context.Context, p *Pod, files map[string]*os.File) error {
	if p.ids().IsZero() || files["user"] != nil {
		return nil
	}
	if net := files["net"]; net != nil {
		user, err := oci.UserNamespaceOf(net)
		if err != nil {
			return err
		}
		files["user"] = user
		return nil
	}
	made, err := m.cfg.Runtime.UserNamespaces(ctx, p.ID, oci.NamespaceSet{IDs: p.ids()})
	maps.Copy(files, made)
	return err
}
