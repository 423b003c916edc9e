package sandbox

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/sandbox/record"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podKind is the form of a pod's record; version 1 was the first.
var podKind = record.Kind{Name: "pod", Version: 1}

// A Pod is a sandbox as its record has it. A published Pod is never changed:
// every change makes a new one.
type Pod struct {
	ID     string `json:"id"`
	BootID string `json:"boot_id"`
	// Config is the request's, as it came.
	Config  Message[*runtimeapi.PodSandboxConfig] `json:"config"`
	Handler string                                `json:"handler,omitempty"`
	// CreatedAt, ReadyAt and StoppedAt are when; ReadyAt is zero until all of it
	// is there, StoppedAt until it was taken down.
	CreatedAt time.Time `json:"created_at"`
	ReadyAt   time.Time `json:"ready_at,omitzero"`
	StoppedAt time.Time `json:"stopped_at,omitzero"`
	// Stopping: it is being taken down, and is not what it was.
	Stopping bool `json:"stopping,omitempty"`
	// Down: its address is being given back, or was. The record does not say so: what
	// is Stopping when the daemon starts is taken for that.
	Down    bool           `json:"-"`
	Network network.Result `json:"network"`
	// CgroupParent is the group that the containers' groups are made in; it is
	// ours if the request named none.
	CgroupParent string `json:"cgroup_parent"`
	// Labels are the SELinux labels, empty without.
	Labels label.Labels `json:"labels,omitzero"`
	// Updated is the last UpdatePodSandboxResources.
	Updated *Message[*runtimeapi.UpdatePodSandboxResourcesRequest] `json:"updated,omitempty"`
	// Problem says why a pod that was ready is not.
	Problem string `json:"problem,omitempty"`
}

// Ready tells whether containers can be made in the pod.
func (p *Pod) Ready() bool { return !p.ReadyAt.IsZero() && p.StoppedAt.IsZero() && !p.Down }

// namespaces are the pod's own namespace options, never nil.
func (p *Pod) namespaces() *runtimeapi.NamespaceOption {
	if n := p.Config.Of.GetLinux().GetSecurityContext().GetNamespaceOptions(); n != nil {
		return n
	}
	return &runtimeapi.NamespaceOption{}
}

func (p *Pod) hostNetwork() bool { return p.namespaces().Network == runtimeapi.NamespaceMode_NODE }
func (p *Pod) hostIPC() bool     { return p.namespaces().Ipc == runtimeapi.NamespaceMode_NODE }

// sharedPID tells whether the pod has a PID namespace with an init of ours.
func (p *Pod) sharedPID() bool { return p.namespaces().Pid == runtimeapi.NamespaceMode_POD }

// hostname is the name in the pod's own UTS namespace, "" without one.
func (p *Pod) hostname() string {
	if p.hostNetwork() {
		return ""
	}
	if h := p.Config.Of.GetHostname(); h != "" {
		return h
	}
	return shortHostname(p.Config.Of.GetMetadata().GetName())
}

// shortHostname cuts a name as the kubelet does, to 63 bytes: a pod's name has up
// to 253, a host's label 63 (RFC 1123) and sethostname(2) takes 64. What ends in a
// hyphen or a dot then is no name of a host.
func shortHostname(name string) string {
	const most = 63
	if len(name) <= most {
		return name
	}
	return strings.TrimRight(name[:most], "-.")
}

// Key names what a pod is to the kubelet; two pods never have the same.
func podKey(c *runtimeapi.PodSandboxConfig) string {
	m := c.GetMetadata()
	return fmt.Sprintf("%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

// The names of what a pod has on the host: functions of its id.

func (m *Manager) podDir(id string) string   { return filepath.Join(m.cfg.RootDir, "pods", id) }
func (m *Manager) podState(id string) string { return filepath.Join(m.cfg.StateDir, "pods", id) }

// NetNSPath is where a pod's network namespace is pinned.
func (m *Manager) NetNSPath(id string) string {
	return filepath.Join(netns.Dir, m.cfg.Instance+"-"+id[:12])
}

func (m *Manager) ownCgroup(id string) string {
	if m.cfg.Slices {
		if slice, err := cgroup.ParentSlice(m.cfg.Instance + "-" + id + ".slice"); err == nil {
			return slice
		}
	}
	return "/" + m.cfg.Instance + "/" + id
}

// ofOwnCgroup is the pod's id in the name of such a group, or empty.
func (m *Manager) ofOwnCgroup(name string) string {
	name = strings.TrimSuffix(strings.TrimPrefix(name, m.cfg.Instance+"-"), ".slice")
	if len(name) != 64 {
		return ""
	}
	return name
}

// A Message is a CRI message in a record, as protobuf's JSON.
type Message[T proto.Message] struct{ Of T }

// MarshalJSON implements json.Marshaler.
func (m Message[T]) MarshalJSON() ([]byte, error) { return protojson.Marshal(m.Of) }

// UnmarshalJSON implements json.Unmarshaler. Fields of a later version are
// dropped.
func (m *Message[T]) UnmarshalJSON(b []byte) error {
	m.Of = m.Of.ProtoReflect().New().Interface().(T)
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m.Of)
}

// differs names the first field in which two messages differ, "" if none.
func differs(a, b proto.Message) string {
	if proto.Equal(a, b) {
		return ""
	}
	x, y := a.ProtoReflect(), b.ProtoReflect()
	fields := x.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !x.Get(f).Equal(y.Get(f)) {
			return string(f.Name())
		}
	}
	return "an unknown field"
}
