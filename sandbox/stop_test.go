package sandbox

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/label"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killing is groups of which the first kill fails.
type killing struct {
	Cgroups
	kills  atomic.Int32
	killed func()
}

func (*killing) Forget(string) {}

func (k *killing) Kill(context.Context, string, string) error {
	if k.kills.Add(1) == 1 {
		return errors.New("not this time")
	}
	k.killed()
	return nil
}

// runningContainer puts a container that runs into a manager.
func runningContainer(m *Manager) *containerEntry {
	c := &Container{ID: newID(), PodID: newID(), Made: true, CreatedAt: time.Now(), StartedAt: time.Now(), PID: 1,
		Config: Message[*runtimeapi.ContainerConfig]{&runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}}}}
	e := &containerEntry{lock: newLock(), ctr: c, exited: make(chan struct{})}
	m.mu.Lock()
	m.containers[c.ID] = e
	m.publishContainer(nil, c)
	m.mu.Unlock()
	return e
}

// TestStopIsTriedAgain: where the kill after the grace failed, the next stop kills.
func TestStopIsTriedAgain(t *testing.T) {
	m := newTestManager(t, nil)
	e := runningContainer(m)
	k := &killing{killed: func() { m.ended(e) }}
	m.cfg.Cgroups = k
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- m.StopContainer(ctx, e.ctr.ID, time.Millisecond) }()
	for k.kills.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	cancel()
	if err := <-first; err == nil {
		t.Fatal("the first stop succeeded")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := m.StopContainer(ctx, e.ctr.ID, 10*time.Millisecond); err != nil {
		t.Errorf("after %d kills: %v", k.kills.Load(), err)
	}
}

// TestStopOfWhatIsChanged: who holds up a stop may be a start, an update or a removal,
// and is called none of them that it is not.
func TestStopOfWhatIsChanged(t *testing.T) {
	m := newTestManager(t, nil)
	e := runningContainer(m)
	if err := e.lock.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.lock.release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for stage, want := range map[string]string{"": "another call changes it", "start": `another call is at "start"`} {
		atStage(&e.stage)(stage)
		if err := m.StopContainer(ctx, e.ctr.ID, time.Second); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), want) {
			t.Errorf("at stage %q: %v", stage, err)
		}
	}
}

// TestRemovedTwice: of two who remove a pod at a time, the second does not give
// back the labels that another pod has by now.
func TestRemovedTwice(t *testing.T) {
	synctest.Test(t, removedTwice)
}

func removedTwice(t *testing.T) {
	m := newTestManager(t, nil)
	pool := label.NewPool(label.Labels{Process: "system_u:system_r:container_t:s0", Mount: "system_u:object_r:container_file_t:s0"})
	m.cfg.Labels = pool
	level := label.Options{Level: "s0:c1,c2"}
	config := nodePod("p")
	config.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: level.Level}
	id, err := m.RunPod(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.podEntry(id)
	if err != nil {
		t.Fatal(err)
	}
	e.lock <- struct{}{} // both come to this
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- m.RemovePod(t.Context(), id) }()
	}
	synctest.Wait()
	if _, err := pool.New(level); err != nil { // another pod's
		t.Fatal(err)
	}
	e.lock.release()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	taken := reflect.ValueOf(pool).Elem().FieldByName("taken").MapIndex(reflect.ValueOf(level.Level))
	if !taken.IsValid() {
		t.Error("the level of a pod that is there is free")
	}
}

// TestStoppedOnItsWayUp: a pod that is stopped while it is being made does not
// become ready with half of it gone.
func TestStoppedOnItsWayUp(t *testing.T) {
	at, proceed := make(chan struct{}), make(chan struct{})
	m := newTestManager(t, func(point string) error {
		if point == "pod: publish" {
			close(at)
			<-proceed
		}
		return nil
	})
	up := make(chan error, 1)
	go func() { _, err := m.RunPod(t.Context(), nodePod("p"), ""); up <- err }()
	<-at
	id := m.Accounts()[0].ID // as `cri-box why` tells it
	if err := m.StopPod(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	if err := <-up; !errors.Is(err, ErrState) {
		t.Errorf("RunPod: %v", err)
	}
	if p, err := m.Pod(id); err == nil {
		t.Errorf("it is there, ready: %v", p.Ready())
	}
}

// TestRemovedWhileItsEndIsWritten: an end that could not be written is written
// again; a container that is removed meanwhile does not come back by that.
func TestRemovedWhileItsEndIsWritten(t *testing.T) {
	var m *Manager
	var id string
	tries := 0
	m = newTestManager(t, func(point string) error {
		if point != "exit: record" {
			return nil
		}
		if tries++; tries == 1 {
			return errors.New("no space left on device")
		}
		return m.RemoveContainer(t.Context(), id)
	})
	e := runningContainer(m)
	id = e.ctr.ID
	exit := keeper.Exit{At: time.Now()}
	if err := m.recordExit(t.Context(), e, exit); err == nil {
		t.Error("the first try succeeded")
	}
	if err := m.recordExit(t.Context(), e, exit); err != nil {
		t.Errorf("it would be tried again: %v", err)
	}
	if list := m.List().Containers; len(list) != 0 {
		t.Errorf("%d containers are listed", len(list))
	}
}

// TestRemovedAsItStarts: a container is started between the two looks of its removal,
// and somebody stops it: the stop does not wait for an end that nobody records.
func TestRemovedAsItStarts(t *testing.T) {
	synctest.Test(t, removedAsItStarts)
}

func removedAsItStarts(t *testing.T) {
	m := newTestManager(t, nil)
	e := runningContainer(m)
	running := *e.ctr
	created := running
	created.StartedAt = time.Time{}
	e.ctr = &created
	stopped := make(chan error, 1)
	removed := make(chan error, 1)
	e.lock <- struct{}{}
	go func() { removed <- m.RemoveContainer(t.Context(), created.ID) }() // its first look comes next,
	synctest.Wait()
	started := make(chan struct{})
	go func() { // and then this one's turn,
		e.lock <- struct{}{}
		m.mu.Lock()
		e.ctr = &running
		m.mu.Unlock()
		go func() { stopped <- m.awaitStop(t.Context(), e, &running, time.Minute) }()
		close(started)
		e.lock.release()
	}()
	synctest.Wait()
	e.lock.release()
	<-started
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the stop waits for a container that is gone")
	}
}

// TestHalfStopped: a pod that gave its address back and could not be stopped to the
// end is not ready, for this daemon and for the next; a stop goes on with it.
func TestHalfStopped(t *testing.T) {
	var passes atomic.Bool
	m := newTestManager(t, func(point string) error {
		if !passes.Load() && point == "pod: undo pin network namespace" {
			return errors.New("not this time")
		}
		return nil
	})
	id, err := m.RunPod(t.Context(), nodePod("p"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StopPod(t.Context(), id); err == nil {
		t.Fatal("the first stop succeeded")
	}
	for _, p := range m.List().Pods {
		if p.Ready() {
			t.Error("it is ready")
		}
	}
	next := newTestManager(t, nil)
	next.cfg.RootDir = m.cfg.RootDir
	if err := next.loadPods(); err != nil {
		t.Fatal(err)
	}
	if p, err := next.Pod(id); err != nil || p.Ready() {
		t.Errorf("the next daemon has it ready, or not: %v", err)
	}
	passes.Store(true)
	if err := m.StopPod(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if p, err := m.Pod(id); err != nil || p.StoppedAt.IsZero() {
		t.Errorf("it has not stopped: %v", err)
	}
}
