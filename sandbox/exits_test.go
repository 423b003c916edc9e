package sandbox

import (
	"context"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hanging is groups of which one does not end.
type hanging struct {
	noCgroups
	id     string
	killed chan struct{}
	end    chan struct{}
}

func (h *hanging) Kill(_ context.Context, id, _ string) error {
	if id == h.id {
		close(h.killed)
		<-h.end
	}
	return nil
}

// TestExitBesideOneThatHangs: a container of a pod's PID namespace leaves a process
// that cannot be killed; meanwhile the end of another is recorded.
func TestExitBesideOneThatHangs(t *testing.T) {
	m := newTestManager(t, nil)
	first, second := runningContainer(m), runningContainer(m)
	for _, e := range []*containerEntry{first, second} {
		c := *e.ctr
		c.Config.Of.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}}}
		if e == second {
			c.Config.Of.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_CONTAINER
		}
		m.exits.began(c.ID)
	}
	h := &hanging{id: first.ctr.ID, killed: make(chan struct{}), end: make(chan struct{})}
	m.cfg.Cgroups = h
	defer func() { close(h.end); <-first.exited }()
	go m.WatchExits(t.Context())
	end := keeper.Exit{At: time.Now()}
	m.OnExit(keeper.Item{ID: first.ctr.ID, Kind: keeper.KindContainer, PID: 1, Exit: &end})
	<-h.killed
	m.OnExit(keeper.Item{ID: second.ctr.ID, Kind: keeper.KindContainer, PID: 1, Exit: &end})
	select {
	case <-second.exited:
	case <-time.After(5 * time.Second):
		t.Error("its end is not recorded")
	}
}
