// Package oci starts containers: from a runtime-spec and layers to a process,
// with nothing between it and the kernel.
//
//	Prepare   layers, volumes, /dev, cgroup ──▶ descriptors and a program
//	Start     descriptors and a program ──keeper, spawner──▶ a process
//	Exec      the same, into the namespaces of a running one
//	Delete    ends and removes all of it; needs the id only
//
// Nothing is mounted in the host's namespace. All that outlives the daemon is in
// the keeper's custody, in cgroups, and below two directories named by the id.
package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci/apparmor"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/singleflight"
)

// Config is what a Runtime stands on. Nothing in it is owned by the Runtime.
type Config struct {
	Keeper  *keeper.Client
	Cgroups *cgroup.System
	// StateDir holds what ends with the boot: <StateDir>/containers/<id>.
	StateDir string
	// RootDir holds what stays: <RootDir>/containers/<id>.
	RootDir string
	// CgroupBase is the group below which groups are ours altogether, such as
	// /cri-box: empty parents there are removed too.
	CgroupBase string
	// MaxLogLine is the length in bytes above which a log line is split.
	MaxLogLine int
	// Took is told how long each part of a container's making took; it may be nil.
	Took func(id, name string, d time.Duration)
	// Fault, for tests only, is called at every fault point by its name. Nil: there
	// are none.
	Fault func(name string) error
}

// A Runtime makes, starts and ends containers. Its methods may be called
// concurrently for different containers.
type Runtime struct {
	Config
	filters filters
	spares  *spares
	shapes  shapes
	left    leftGroups
	inits   singleflight.Group // starts of pods' inits, by pod

	apparmor apparmor.Profiles

	mu       sync.Mutex
	prepared map[string]*prepared
	groups   map[string]*cgroup.Cgroup
	projects bool // the file system counts what each container writes
}

// New returns a Runtime; its directories are made if they are missing.
func New(c Config) (*Runtime, error) {
	for _, dir := range []string{c.containerState(""), c.containerRoot("")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("cannot make runtime directory: %w", err)
		}
	}
	if err := mount.Spread(c.containerRoot("")); err != nil {
		return nil, err
	}
	return &Runtime{Config: c, spares: newSpares(), prepared: map[string]*prepared{}, groups: map[string]*cgroup.Cgroup{}, projects: countsProjects(c.containerRoot(""))}, nil
}

// UseAppArmor makes sure that a profile is loaded; the default one is loaded if it
// is missing.
func (r *Runtime) UseAppArmor(ctx context.Context, profile string) error {
	err := r.apparmor.Use(ctx, profile)
	if errors.Is(err, apparmor.ErrNotLoaded) {
		return fmt.Errorf("linux.security_context.apparmor: %w: %w", err, spec.ErrInvalid)
	}
	return err
}

// fault is a place where a test may have the daemon fail, wait or die.
func (c Config) fault(name string) error {
	if c.Fault == nil {
		return nil
	}
	return c.Fault(name)
}

func (c Config) containerState(id string) string { return filepath.Join(c.StateDir, "containers", id) }
func (c Config) containerRoot(id string) string  { return filepath.Join(c.RootDir, "containers", id) }

// A Bundle is what a container is made from. It holds no kernel object, so that
// a later daemon can prepare the same container again.
type Bundle struct {
	ID    string `json:"id"`
	PodID string `json:"pod_id"`
	// Lowers are the directories of the image's layers, the top one first.
	Lowers []string `json:"lowers"`
	// LogPath is the log file, "" for none; its directory exists.
	LogPath string `json:"log_path,omitempty"`
	Stdin   bool   `json:"stdin,omitempty"`
	// Target is the container whose PID namespace this one joins, or "".
	Target string `json:"target,omitempty"`
	// InitCgroup, if set, is the group of the pod's init: the container joins the
	// PID namespace of that init, which is started if there is none.
	InitCgroup string `json:"init_cgroup,omitempty"`
	// Images are the images that are mounted into the container, by the source
	// that the spec's mount names.
	Images map[string]ImageVolume `json:"images,omitempty"`
	// IDs are those of the pod's user namespace; zero: it has none.
	IDs spec.IDs `json:"ids,omitzero"`
	// MountLabel is the SELinux label of what is mounted, "" for none; Relabel
	// names the mounts, by destination, whose files are to be given it.
	MountLabel string          `json:"mount_label,omitempty"`
	Relabel    map[string]bool `json:"relabel,omitempty"`
	// MakeSources makes missing sources of bind mounts as directories.
	MakeSources bool        `json:"make_sources,omitempty"`
	Spec        *specs.Spec `json:"-"`
}

// cgroupOf gives the open control group of a container.
func (r *Runtime) cgroupOf(id, path string) (*cgroup.Cgroup, error) {
	r.mu.Lock()
	cg := r.groups[id]
	r.mu.Unlock()
	if cg != nil {
		return cg, nil
	}
	cg, err := r.Cgroups.Open(path)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first := r.groups[id]; first != nil {
		cg.Close()
		return first, nil
	}
	r.groups[id] = cg
	return cg, nil
}
