package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"go.opentelemetry.io/otel"
)

// Started is a process that runs.
type Started struct {
	PID int
	// PIDStart is its start time in clock ticks since boot (proc(5), field 22).
	PIDStart uint64
	At       time.Time
}

// startBound is how long the way from clone to execve may take.
const startBound = 30 * time.Second

// Start runs a container that was prepared, by this daemon or an earlier one.
func (r *Runtime) Start(ctx context.Context, b Bundle) (Started, error) {
	p, err := r.takePrepared(ctx, b)
	if err != nil {
		return Started{}, err
	}
	defer p.close()
	if err := r.fault("start: open log"); err != nil {
		return Started{}, err
	}
	item := keeper.Item{ID: b.ID, Kind: keeper.KindContainer, Log: &keeper.Log{MaxLine: r.MaxLogLine}}
	if b.LogPath != "" {
		log, err := r.openLog(ctx, b.LogPath)
		if err != nil {
			return Started{}, err
		}
		p.keep[keeper.FDLog] = log
	}
	if err := r.fault("start: spawn"); err != nil {
		return Started{}, err
	}
	keep := p.keep
	p.keep = nil // the keeper's client owns it from here
	at := time.Now()
	ctx, span := otel.Tracer(tracer).Start(ctx, "clone to execve")
	defer span.End()
	pid, err := r.Keeper.Spawn(ctx, keeper.Spawn{Item: item, Program: p.program, FDs: p.fds, Keep: keep, Timeout: startBound})
	if err != nil {
		return Started{}, err
	}
	r.took(b.ID, "clone to execve", time.Since(at))
	if b.Spec != nil {
		if group, err := r.cgroupOf(b.ID, b.Spec.Linux.CgroupsPath); err == nil { // else it has ended
			group.Adopt(pid, b.Spec.Linux.Resources)
		}
	}
	return Started{PID: pid, PIDStart: StartTime(pid), At: at}, nil
}

// took tells how long a part of a container's making took.
func (r *Runtime) took(id, name string, d time.Duration) {
	if r.Took != nil {
		r.Took(id, name, d)
	}
}

func (r *Runtime) takePrepared(ctx context.Context, b Bundle) (*prepared, error) {
	for range 2 {
		r.mu.Lock()
		p := r.prepared[b.ID]
		delete(r.prepared, b.ID)
		r.mu.Unlock()
		lost := r.dropLost(b.ID)
		if p != nil && !lost {
			return p, nil
		}
		if p != nil {
			p.close()
		}
		if b.Spec == nil {
			return nil, fmt.Errorf("cannot start container %s: %w", b.ID, errNoBundle)
		}
		if err := r.Prepare(ctx, b, nil); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("cannot start container %s: it is being removed", b.ID)
}

// dropLost lets go of a container's group whose limits are gone; made once more, it
// has them again.
func (r *Runtime) dropLost(id string) bool {
	r.mu.Lock()
	g := r.groups[id]
	r.mu.Unlock()
	if g == nil || !g.Lost() { // that reads a file
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.groups[id] == g { // else somebody else lets go of it
		delete(r.groups, id)
		g.Close()
	}
	return true
}

// StartTime is field 22 of /proc/PID/stat; 0 if the process is gone.
func StartTime(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// lastCap is the highest capability that the kernel knows.
var lastCap = sync.OnceValue(func() int {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
})

// ReopenLog makes a new file the log of a running container; nothing goes to the
// old one when it returns.
func (r *Runtime) ReopenLog(ctx context.Context, b Bundle) error {
	log, err := r.openLog(ctx, b.LogPath)
	if err != nil {
		return err
	}
	return r.Keeper.ReopenLog(ctx, b.ID, log)
}

// Kill ends all processes in a container's group.
func (r *Runtime) Kill(ctx context.Context, id, cgroup string) error {
	group, err := r.cgroupOf(id, cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return group.Kill(ctx)
}

// OOMKills counts the processes of a container's group that were killed because
// memory was short, after its end.
func (r *Runtime) OOMKills(id, cgroup string, exit keeper.Exit) (uint64, error) {
	if exit.Kills != nil {
		r.Cgroups.KillsCounted(cgroup, *exit.Kills)
		return *exit.Kills, nil
	}
	group, err := r.cgroupOf(id, cgroup)
	if err != nil {
		return 0, err
	}
	return group.OOMKills()
}

// Groups lists the names of the groups directly below base.
func (r *Runtime) Groups(base string) ([]string, error) { return r.Cgroups.List(base) }

// dropParents removes the groups above that are cri-box's own and empty. A slice is
// systemd's to remove, when the pod's last process has ended, its init's.
func (r *Runtime) dropParents(id, cgroup string) error {
	switch {
	case !strings.HasPrefix(cgroup, r.CgroupBase+"/"):
		return nil
	case r.Cgroups.Driver() != "systemd":
		return r.Cgroups.RemoveEmptyParents(cgroup, r.CgroupBase)
	case strings.HasSuffix(id, InitID("")):
		r.Cgroups.StopSlice(path.Dir(cgroup))
	case strings.HasSuffix(cgroup, ".slice"): // of no pod
		r.Cgroups.StopSlice(cgroup)
	}
	return nil
}

// Delete ends a container's processes and takes away what Prepare and Start
// made. It is safe when there is nothing.
func (r *Runtime) Delete(ctx context.Context, id, cgroup string) error {
	r.mu.Lock()
	p := r.prepared[id]
	delete(r.prepared, id)
	r.mu.Unlock()
	if p != nil {
		p.close()
	}
	errs := []error{r.Kill(ctx, id, cgroup), r.Keeper.Release(ctx, id)}
	r.left.forget(id)
	r.mu.Lock()
	group := r.groups[id]
	delete(r.groups, id)
	r.mu.Unlock()
	if group != nil {
		group.Close()
	}
	errs = append(errs, r.Cgroups.Remove(ctx, cgroup))
	errs = append(errs, r.dropParents(id, cgroup))
	root := r.containerRoot(id)
	errs = append(errs, os.RemoveAll(r.containerState(id)), RemoveAll(filepath.Join(root, "upper")), RemoveAll(filepath.Join(root, "work")))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	return nil
}
