package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/label"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newTestManager returns a Manager whose pods are on the node's network: they
// need nothing of the kernel. fault is asked at each fault point; nil: none is.
func newTestManager(t *testing.T, fault func(string) error) *Manager {
	t.Helper()
	root, state := t.TempDir(), t.TempDir()
	images, err := image.Open(image.Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	m, err := New(Config{Instance: "test", StateDir: state, RootDir: root, BootID: "boot", Network: noNetwork{}, Images: images,
		Runtime: noRuntime{}, Cgroups: noCgroups{}, Custody: noCustody{}, Labels: label.NewPool(label.Labels{}), Fault: fault})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	m.spaces.ahead.Close()
	return m
}

type noNetwork struct{ network.Network }

func (noNetwork) Ahead(context.Context, string, int) (io.Closer, error) {
	return nil, errors.New("there is none")
}
func (noNetwork) Detach(context.Context, ...string) error { return nil }

type noRuntime struct{ Runtime }

func (noRuntime) Delete(context.Context, string, string) error { return nil }

type noCgroups struct{ Cgroups }

func (noCgroups) Forget(string)                              {}
func (noCgroups) Kill(context.Context, string, string) error { return nil }

type noCustody struct{ Custody }

func (noCustody) Hold(context.Context, string, map[string]*os.File) error { return nil }
func (noCustody) Release(context.Context, string) error                   { return nil }
func (noCustody) FD(string, string) (*os.File, error)                     { return nil, os.ErrNotExist }
func (noCustody) Items() []keeper.Kept                                    { return nil }

// nodePod is a pod on the node's network.
func nodePod(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE}}},
	}
}

// TestUsedPodIsNotTakenBack: a pod whose client went away before it had the answer
// is kept for the retry. Whoever found it, by asking again or in a list, has it.
func TestUsedPodIsNotTakenBack(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, m *Manager, id string) error{
		"run again": func(t *testing.T, m *Manager, id string) error {
			again, err := m.RunPod(t.Context(), nodePod("p"), "")
			if again != id {
				t.Errorf("the retry got %q, the pod is %q", again, id)
			}
			return err
		},
		"create container": func(t *testing.T, m *Manager, id string) error {
			_, err := m.CreateContainer(t.Context(), id, &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"},
				Image: &runtimeapi.ImageSpec{Image: "not-here"}, LogPath: ""})
			if !errors.Is(err, ErrNotFound) {
				return err
			}
			return nil
		},
	} {
		// In a bubble, whose time stands still while something is done.
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { usedPodStays(t, use) }) })
	}
}

func usedPodStays(t *testing.T, use func(t *testing.T, m *Manager, id string) error) {
	begun, proceed := make(chan struct{}), make(chan struct{})
	m := newTestManager(t, func(point string) error {
		if point == "pod: publish" {
			close(begun)
			<-proceed
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := m.RunPod(ctx, nodePod("p"), ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("RunPod: %v", err)
	}
	events := m.Subscribe()
	defer events.Close()
	close(proceed)
	e, err := events.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := use(t, m, e.ID); err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * retryBound)
	if p, err := m.Pod(e.ID); err != nil || !p.Ready() {
		t.Errorf("the pod is gone: %v", err)
	}
}
