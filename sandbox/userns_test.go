package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/oci/spec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNodeWithoutUserNamespaces: who asks for one is told why there is none; who
// does not is not held up.
func TestNodeWithoutUserNamespaces(t *testing.T) {
	m := &Manager{cfg: Config{Host: spec.Host{NoUserNamespaces: "the file system of the layers has no id-mapped mounts"}}}
	ask := func(mode runtimeapi.NamespaceMode) error {
		ids := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
		return m.checkUsers(&runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: mode, Uids: ids, Gids: ids}}}}})
	}
	err := ask(runtimeapi.NamespaceMode_POD)
	if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), "userns_options.mode POD") || !strings.Contains(err.Error(), "no id-mapped mounts") {
		t.Errorf("it says %v", err)
	}
	if err := ask(runtimeapi.NamespaceMode_NODE); err != nil || m.UserNamespaces() {
		t.Errorf("the node's own: %v", err)
	}
}

// TestLabels: a pod has its own, its containers the same with what they ask for,
// and a later daemon keeps them from others.
func TestLabels(t *testing.T) {
	base := label.Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}
	m := &Manager{cfg: Config{Labels: label.NewPool(base)}}
	pod := &Pod{Config: Message[*runtimeapi.PodSandboxConfig]{&runtimeapi.PodSandboxConfig{}}}
	if err := m.labelPod(pod); err != nil || !strings.HasPrefix(pod.Labels.Process, "system_u:system_r:container_t:s0:c") {
		t.Fatalf("%+v, %v", pod.Labels, err)
	}
	n := &newContainer{Manager: m, pod: pod}
	n.ctr.Config.Of = &runtimeapi.ContainerConfig{
		Linux:  &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{SelinuxOptions: &runtimeapi.SELinuxOption{Type: "spc_t"}}},
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/a/", SelinuxRelabel: true}, {ContainerPath: "/b"}},
	}
	l, err := n.label()
	if want := strings.Replace(pod.Labels.Process, "container_t", "spc_t", 1); err != nil || l.Process != want || l.Mount != pod.Labels.Mount {
		t.Errorf("a container's labels: %+v, %v", l, err)
	}
	if b := n.ctr.Bundle; b.MountLabel != pod.Labels.Mount || len(b.Relabel) != 1 || !b.Relabel["/a"] {
		t.Errorf("what is to be relabelled: %q %v", b.MountLabel, b.Relabel)
	}
	n.ctr.Config.Of.Linux.SecurityContext.Privileged = true
	if l, err := n.label(); err != nil || l != (label.Labels{}) {
		t.Errorf("a privileged container's labels: %+v, %v", l, err)
	}
	err = (&Manager{cfg: Config{Labels: label.NewPool(label.Labels{})}}).checkLabels(&runtimeapi.SELinuxOption{Level: "s0"})
	if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), "selinux_options: SELinux is not active") {
		t.Errorf("without SELinux: %v", err)
	}
	if err := m.checkLabels(&runtimeapi.SELinuxOption{Type: "a:b"}); !errors.Is(err, spec.ErrInvalid) {
		t.Errorf("a type with a colon: %v", err)
	}
}
