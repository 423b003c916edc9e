package critest_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// offered is what Status says of the default handler and of the runtime.
func (n *node) offered() (*runtimeapi.RuntimeHandlerFeatures, *runtimeapi.RuntimeFeatures) {
	n.Helper()
	r, err := n.runtime.Status(n.ctx(), &runtimeapi.StatusRequest{})
	if err != nil {
		n.Fatal(err)
	}
	names := map[string]int{}
	var handler *runtimeapi.RuntimeHandlerFeatures
	for _, h := range r.RuntimeHandlers {
		if names[h.Name]++; h.Name == "" {
			handler = h.Features
		}
	}
	if names[""] != 1 || len(names) != len(r.RuntimeHandlers) {
		n.Errorf("the handlers are %v: one of them has to be the default, and no name may be there twice", r.RuntimeHandlers)
	}
	return handler, r.Features
}

// TestFeatures: what Status offers is done, and what it does not offer is not.
func TestFeatures(t *testing.T) {
	clause(t, "features describes the set of features implemented by the CRI implementation.")
	n := newNode(t)
	handler, runtime := n.offered()
	p := n.pod()
	volume := n.volume()
	n.tmpfs(filepath.Join(volume, "below"))
	for feature, c := range map[string]struct {
		offered bool
		done    func() (bool, error)
	}{
		"recursive_read_only_mounts": {handler.GetRecursiveReadOnlyMounts(), func() (bool, error) {
			c, err := p.try(mount(&runtimeapi.Mount{HostPath: volume, ContainerPath: "/volume", Readonly: true, RecursiveReadOnly: true}))
			return err == nil && c.fails("touch /volume/below/x"), err
		}},
		"mount_options": {runtime.GetMountOptions(), func() (bool, error) {
			c, err := p.try(mount(&runtimeapi.Mount{HostPath: volume, ContainerPath: "/volume", MountOptions: []string{"noexec"}}))
			return err == nil && strings.Contains(c.options("/volume"), ",noexec,"), err
		}},
		"supplemental_groups_policy": {runtime.GetSupplementalGroupsPolicy(), func() (bool, error) {
			c, err := p.try(security(func(s *securityContext) {
				s.RunAsUser, s.RunAsGroup, s.SupplementalGroupsPolicy = id(1000), id(1000), runtimeapi.SupplementalGroupsPolicy_Strict
			}))
			return err == nil && c.status().GetUser().GetLinux().GetUid() == 1000, err
		}},
		"user_namespaces":              {handler.GetUserNamespaces(), func() (bool, error) { return n.userNamespace(runtimeapi.NamespaceMode_POD) }},
		"user_namespaces_host_network": {runtime.GetUserNamespacesHostNetwork(), func() (bool, error) { return n.userNamespace(runtimeapi.NamespaceMode_NODE) }},
	} {
		done, err := c.done()
		if done != c.offered {
			t.Errorf("%s is offered: %v; it is done: %v (%v)", feature, c.offered, done, err)
		}
		if !c.offered {
			strict(t, feature, err)
		}
	}
}

// userNamespace tries a pod with a user namespace and that network.
func (n *node) userNamespace(network runtimeapi.NamespaceMode) (bool, error) {
	ids := []*runtimeapi.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}
	p, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, Network: network,
			UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}}
	}))
	if err != nil {
		return false, err
	}
	c, err := p.try()
	if err != nil {
		return false, err
	}
	return strings.Join(strings.Fields(c.sh("cat /proc/self/uid_map")), " ") == "0 100000 65536", nil
}

func (c *container) fails(script string) bool {
	_, code := c.exec(script + " 2>/dev/null")
	return code != 0
}

// TestEveryRPC: each call of both services is known. A request with nothing in it
// is answered or refused; Unimplemented is for checkpoints alone, with a text.
func TestEveryRPC(t *testing.T) {
	clause(t, "Runtime service defines the public APIs for remote container runtimes")
	n := newNode(t)
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	count := 0
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			count++
			err := n.callEmpty(m)
			if status.Code(err) != codes.Unimplemented {
				continue
			}
			optional := m.Name() == "CheckpointContainer" || m.Name() == "CheckpointPod" || m.Name() == "RestorePod"
			// gRPC's own answer is "unknown method", or "method X not implemented".
			own := strings.Contains(err.Error(), "unknown method") || strings.Contains(err.Error(), "not implemented")
			if !optional || own {
				t.Errorf("%s: %v", m.Name(), err)
			}
		}
	}
	equal(t, "calls", count, 43)
}

// callEmpty calls a method with an empty request, and a stream to its first item.
func (n *node) callEmpty(m protoreflect.MethodDescriptor) error {
	n.Helper()
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	in, out := newMessage(n.T, m.Input()), newMessage(n.T, m.Output())
	if !m.IsStreamingServer() {
		return n.conn.Invoke(n.ctx(), name, in, out)
	}
	ctx, cancel := context.WithCancel(n.ctx())
	defer cancel()
	if m.Name() == "GetContainerEvents" { // nothing comes by itself; that there is no such call is said at once
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	stream, err := n.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(in); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil || m.Name() == "GetContainerEvents" {
		return err
	}
	return stream.RecvMsg(out)
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}
