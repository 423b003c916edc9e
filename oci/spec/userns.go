package spec

import (
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMappings is how many lines the kernel takes in one map
// (user_namespaces(7)).
const maxMappings = 340

// IDs maps the user and group ids of a user namespace to the host's. The zero IDs
// stand for no user namespace: an id is the same inside and outside.
type IDs struct {
	UIDs []specs.LinuxIDMapping `json:"uids"`
	GIDs []specs.LinuxIDMapping `json:"gids"`
}

// SandboxIDs are those of a pod; its configuration is valid.
func SandboxIDs(c *runtimeapi.PodSandboxConfig) IDs {
	o := c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	if !ownUsers(o) {
		return IDs{}
	}
	return IDs{UIDs: mappings(o.GetUids()), GIDs: mappings(o.GetGids())}
}

// SpecIDs are those that a spec names.
func SpecIDs(s *specs.Spec) IDs {
	if s.Linux == nil {
		return IDs{}
	}
	return IDs{UIDs: s.Linux.UIDMappings, GIDs: s.Linux.GIDMappings}
}

// IsZero says that there is no user namespace.
func (m IDs) IsZero() bool { return len(m.UIDs) == 0 && len(m.GIDs) == 0 }

// UID gives the host's id of a user; ok is false if it has none.
func (m IDs) UID(id uint32) (host uint32, ok bool) { return m.find(m.UIDs, id) }

// GID gives the host's id of a group; ok is false if it has none.
func (m IDs) GID(id uint32) (host uint32, ok bool) { return m.find(m.GIDs, id) }

func (m IDs) find(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	if m.IsZero() {
		return id, true
	}
	for _, one := range list {
		if id >= one.ContainerID && id-one.ContainerID < one.Size {
			return one.HostID + (id - one.ContainerID), true
		}
	}
	return 0, false
}

// Root gives the host's ids of root, which every pod has.
func (m IDs) Root() (uid, gid int) {
	u, _ := m.UID(0)
	g, _ := m.GID(0)
	return int(u), int(g)
}

// Equal says whether two maps are the same, line by line.
func (m IDs) Equal(o IDs) bool { return slices.Equal(m.UIDs, o.UIDs) && slices.Equal(m.GIDs, o.GIDs) }

func mappings(list []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// ownUsers says whether a user namespace is asked for. A request without options
// comes from a kubelet or client that knows none: it means the node's.
func ownUsers(o *runtimeapi.UserNamespace) bool {
	return o != nil && o.GetMode() == runtimeapi.NamespaceMode_POD
}

const usersField = "linux.security_context.namespace_options.userns_options"

func checkUserNamespace(o *runtimeapi.UserNamespace, wrong *findings) {
	switch {
	case o == nil:
	case o.GetMode() == runtimeapi.NamespaceMode_POD:
		checkMappings(usersField+".uids", o.GetUids(), wrong)
		checkMappings(usersField+".gids", o.GetGids(), wrong)
	case o.GetMode() != runtimeapi.NamespaceMode_NODE:
		wrong.add(usersField+".mode %s is not POD or NODE", o.GetMode())
	case len(o.GetUids())+len(o.GetGids()) > 0:
		wrong.add(usersField + ": mode NODE has no uids and gids")
	}
}

// checkMappings refuses what the kernel would, and a map without root: the pod's
// own files belong to it.
func checkMappings(field string, list []*runtimeapi.IDMapping, wrong *findings) {
	if len(list) == 0 || len(list) > maxMappings {
		wrong.add("%s has %d mappings; right are 1 to %d", field, len(list), maxMappings)
		return
	}
	root := false
	for i, m := range list {
		root = root || m.GetContainerId() == 0
		if m.GetLength() == 0 || !fits(m.GetContainerId(), m.GetLength()) || !fits(m.GetHostId(), m.GetLength()) {
			wrong.add("%s[%d]: length %d from container_id %d and host_id %d is none or goes beyond %d",
				field, i, m.GetLength(), m.GetContainerId(), m.GetHostId(), uint32(maxID))
		}
		for j, o := range list[:i] {
			if overlap(m.GetContainerId(), m.GetLength(), o.GetContainerId(), o.GetLength()) || overlap(m.GetHostId(), m.GetLength(), o.GetHostId(), o.GetLength()) {
				wrong.add("%s[%d] and [%d] overlap", field, j, i)
			}
		}
	}
	if !root {
		wrong.add("%s does not map container_id 0, which the pod's own files belong to", field)
	}
}

func fits(first, length uint32) bool { return uint64(first)+uint64(length) <= math.MaxUint32 }

func overlap(a, aLen, b, bLen uint32) bool {
	return uint64(a) < uint64(b)+uint64(bLen) && uint64(b) < uint64(a)+uint64(aLen)
}

// checkContainerUsers lets a container name its pod's user namespace or none.
func checkContainerUsers(o, pod *runtimeapi.UserNamespace, wrong *findings) {
	switch {
	case o == nil, o.GetMode() == runtimeapi.NamespaceMode_NODE && !ownUsers(pod):
	case o.GetMode() != runtimeapi.NamespaceMode_POD:
		wrong.add(usersField+".mode %s is not that of the pod", o.GetMode())
	case !ownUsers(pod):
		wrong.add(usersField + ".mode POD: the pod has no user namespace")
	case len(o.GetUids())+len(o.GetGids()) > 0:
		own := IDs{UIDs: mappings(o.GetUids()), GIDs: mappings(o.GetGids())}
		if !own.Equal(IDs{UIDs: mappings(pod.GetUids()), GIDs: mappings(pod.GetGids())}) {
			wrong.add(usersField + ": uids and gids are not those of the pod")
		}
	}
}

// checkMountMappings checks the ids of one mount. What is mounted in a user
// namespace never reaches the host (mount_namespaces(7), "less privileged").
func checkMountMappings(i int, m *runtimeapi.Mount, pod *runtimeapi.UserNamespace, wrong *findings) {
	if len(m.GetUidMappings())+len(m.GetGidMappings()) > 0 {
		at := func(field string) string { return fmt.Sprintf("mounts[%d].%s", i, field) }
		checkMappings(at("uidMappings"), m.GetUidMappings(), wrong)
		checkMappings(at("gidMappings"), m.GetGidMappings(), wrong)
	}
	if ownUsers(pod) && m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL {
		wrong.add("mounts[%d].propagation BIDIRECTIONAL: nothing reaches the host from a pod with a user namespace", i)
	}
}

// checkMapped refuses a process whose ids the pod's user namespace lacks.
func checkMapped(u specs.User, ids IDs) error {
	if _, ok := ids.UID(u.UID); !ok {
		return invalid("user %d is not in the pod's user namespace", u.UID)
	}
	for _, g := range append([]uint32{u.GID}, u.AdditionalGids...) {
		if _, ok := ids.GID(g); !ok {
			return invalid("group %d is not in the pod's user namespace", g)
		}
	}
	return nil
}
