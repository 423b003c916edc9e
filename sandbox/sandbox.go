// Package sandbox is the domain: pods and containers, the steps that make them,
// the states they go through, and what is left of them after a crash.
//
// An effect on the host is a step with a do and an undo (step.go). Making runs
// the dos; failing, stopping, removing and recovering run the same undos. What
// is known about an object stands in one record (sandbox/record), which is
// written before the first step and after the last; everything on the host is
// named after the object's id. Memory holds records and handles, no second truth.
//
// Locks: Manager.mu guards the maps and is held for moments; each container has
// a lock for what changes it, each pod one for what takes it up or down, taken
// in the order pod, container. None is held over another pod's work.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/netns"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Config is what a Manager stands on. What it points to stays the caller's.
type Config struct {
	// Instance prefixes the names of host objects.
	Instance string
	StateDir string
	RootDir  string
	BootID   string

	Network network.Network
	Images  *image.Store
	Runtime Runtime
	Cgroups Cgroups
	Logs    Logs
	Custody Custody
	Labels  *label.Pool

	// Slices: pods are slices and containers scopes, which systemd knows.
	Slices bool
	Host   spec.Host
	Policy Policy
	// Fault, for tests only, is called at every fault point by its name; an error
	// is that of the step. Nil, as always in earnest: there are no fault points.
	Fault func(name string) error
}

// Runtime is what starts containers; *oci.Runtime is one.
type Runtime interface {
	// Rootfs mounts the container's root file system, attached nowhere.
	Rootfs(b oci.Bundle) (*os.File, error)
	// Prepare makes everything that Start needs. rootfs becomes the runtime's;
	// nil stands for Rootfs(b).
	Prepare(ctx context.Context, b oci.Bundle, rootfs *os.File) error
	Start(ctx context.Context, b oci.Bundle) (oci.Started, error)
	Exec(ctx context.Context, e oci.Exec) (*oci.Session, error)
	// UserNamespaces makes a pod's user namespace and others in it, by name.
	UserNamespaces(ctx context.Context, podID string, set oci.NamespaceSet) (map[string]*os.File, error)
	// UseAppArmor makes sure that a profile is loaded.
	UseAppArmor(ctx context.Context, profile string) error
	// Delete ends the container's processes and takes away what Prepare and
	// Start made. It needs id and cgroup only, and is safe when there is nothing.
	Delete(ctx context.Context, id, cgroup string) error
	// DiskUse walks the container's writable layer.
	DiskUse(ctx context.Context, id string) (oci.DiskUse, error)
	// DiskCount knows it without a walk, where the file system counts.
	DiskCount(id string) (oci.DiskUse, bool)
	// Readopt, ReadoptInit and PodFiles take over what outlived both daemon and
	// keeper.
	Readopt(ctx context.Context, b oci.Bundle, p oci.Started) error
	ReadoptInit(ctx context.Context, podID, cgroup string) error
	PodFiles(p oci.Started) (map[string]*os.File, error)
}

// Cgroups is what limits, measures and kills containers as groups; *oci.Runtime
// is one. All take the container's id and its group's path.
type Cgroups interface {
	Kill(ctx context.Context, id, cgroup string) error
	// OOMKills counts, after the end, the processes that the kernel killed for want of
	// memory.
	OOMKills(id, cgroup string, exit keeper.Exit) (uint64, error)
	// Groups lists the names of the groups directly below base.
	Groups(base string) ([]string, error)
	// Update brings the limits of one spec to those of another, all or none; undo makes
	// them what they were.
	Update(ctx context.Context, id, cgroup string, from, to *specs.Spec) (undo func(context.Context) error, err error)
	// Stats, Detail and OpenFiles measure; the error without a group is
	// fs.ErrNotExist.
	Stats(id, cgroup string) (cgroup.Stats, error)
	Detail(id, cgroup string) (cgroup.Detail, error)
	OpenFiles(id, cgroup string) (oci.OpenFiles, error)
	// Forget closes what measuring keeps open.
	Forget(id string)
}

// Logs is what writes containers' logs; *oci.Runtime is one.
type Logs interface {
	ReopenLog(ctx context.Context, b oci.Bundle) error
}

// Custody is what outlives the daemon; *keeper.Client is one.
type Custody interface {
	Hold(ctx context.Context, id string, files map[string]*os.File) error
	Release(ctx context.Context, id string) error
	FD(id, name string) (*os.File, error)
	Items() []keeper.Kept
	Tap(ctx context.Context, id string, pipes map[string]*os.File) (<-chan struct{}, error)
	Ping(ctx context.Context) error
	CloseFDs(ctx context.Context, id string, names ...string) error
}

// A Manager owns all pods and containers of an instance.
type Manager struct {
	cfg     Config
	policy  atomic.Pointer[Policy] // instead of cfg.Policy
	creates flights
	exits   exits
	spaces  spaces
	leaks   atomic.Uint64

	mu         sync.Mutex
	pods       map[string]*podEntry
	containers map[string]*containerEntry
	podKeys    map[string]string // podKey to id
	ctrKeys    map[string]string // containerKey to id

	snapshot atomic.Pointer[Snapshot]
	events   events
	disks    disks
	rates    rates
}

// spaces are how namespaces begin and end beside the pods that wait for nothing.
type spaces struct {
	pacer netns.Pacer // ends them, one after the other
	ahead netns.Pool  // makes some before they are asked for
}

// podsAhead is for how many pods namespaces and links are made ahead; each holds
// some 300 KiB of the kernel's memory.
const podsAhead = 4

// A podEntry is a pod's place in memory.
type podEntry struct {
	lock lock
	pod  *Pod // guarded by Manager.mu; what it points to never changes
	// stopping refuses new containers and starts. Guarded by Manager.mu.
	stopping bool
	stage    stages
}

type containerEntry struct {
	lock   lock
	ctr    *Container // guarded by Manager.mu; what it points to never changes
	exited chan struct{}
	stage  stages

	saveMu   sync.Mutex // from reading ctr to writing its successor
	stopMu   sync.Mutex
	deadline time.Time // when the container is killed; zero: nobody stops it
	timer    *time.Timer
	spec     specCache

	// unsaved: the end is known and could not be written yet. Guarded by Manager.mu.
	unsaved bool
}

// New returns a Manager with nothing in it; Recover fills it.
func New(cfg Config) (*Manager, error) {
	for _, dir := range []string{filepath.Join(cfg.RootDir, "pods"), filepath.Join(cfg.RootDir, "containers"), filepath.Join(cfg.StateDir, "pods")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("cannot make directory: %w", err)
		}
	}
	m := &Manager{cfg: cfg, pods: map[string]*podEntry{}, containers: map[string]*containerEntry{},
		podKeys: map[string]string{}, ctrKeys: map[string]string{}}
	m.SetPolicy(cfg.Policy)
	m.spaces.ahead.Size, m.spaces.ahead.NewID, m.spaces.ahead.Connect = podsAhead, newID, cfg.Network.Ahead
	var err error
	if m.spaces.ahead.Sysctls, err = spec.Sysctls(&runtimeapi.PodSandboxConfig{}); err != nil {
		return nil, err
	}
	m.spaces.ahead.Fill()
	m.exits.init()
	m.events.init()
	m.disks.init(cfg.Runtime.DiskUse, cfg.Runtime.DiskCount)
	m.snapshot.Store(&Snapshot{})
	return m, nil
}

// Close waits for what is done in the background. No call may be under way.
func (m *Manager) Close() {
	m.disks.close()
	m.spaces.ahead.Close()
	m.spaces.pacer.Wait()
}

// Pod finds a pod by its id or a unique beginning of it.
func (m *Manager) Pod(id string) (*Pod, error) {
	e, err := m.podEntry(id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.pod, nil
}

func (m *Manager) podEntry(id string) (*podEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.pods, "pod", id)
}

// Container finds a container by its id or a unique beginning of it.
func (m *Manager) Container(id string) (*Container, error) {
	e, err := m.containerEntry(id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.ctr, nil
}

func (m *Manager) containerEntry(id string) (*containerEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.containers, "container", id)
}

func find[E any](all map[string]*E, kind, id string) (*E, error) {
	if e := all[id]; e != nil {
		return e, nil
	}
	var hit *E
	if id != "" {
		for full, e := range all {
			if strings.HasPrefix(full, id) {
				if hit != nil {
					return nil, fmt.Errorf("cannot tell which %s is meant by %q: several begin so: %w", kind, id, spec.ErrInvalid)
				}
				hit = e
			}
		}
	}
	if hit == nil {
		return nil, fmt.Errorf("%s %q: %w", kind, id, ErrNotFound)
	}
	return hit, nil
}

// current gives the published values of entries.
func (m *Manager) currentPod(e *podEntry) *Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.pod
}

func (m *Manager) currentContainer(e *containerEntry) *Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.ctr
}

// idDigits is the length of every id.
const idDigits = 64

// newID returns idDigits lower-case hex digits.
func newID() string {
	var b [idDigits / 2]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func logger(id string) *slog.Logger { return slog.With("id", id[:12]) }
