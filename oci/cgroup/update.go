package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// updatableV1 are the files that an update may write, in the directory of the
// controller that their names begin with.
var updatableV1 = []string{
	"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.idle", "cpu.rt_period_us", "cpu.rt_runtime_us",
	"cpuset.cpus", "cpuset.mems", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes",
	"memory.swappiness", "pids.max", "blkio.weight", "blkio.bfq.weight", "hugetlb.*.limit_in_bytes",
}

var updatableV2 = []string{
	"cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems",
	"memory.max", "memory.swap.max", "memory.low", "memory.min", "memory.high", "pids.max", "io.weight", "io.bfq.weight",
	"hugetlb.*.max",
}

// Update sets the limits in r on a group in use, all of them or none: after a
// failure every limit is what it was. What r leaves out stays. A memory limit
// below what is in use is refused. Devices and limits of single block devices
// cannot be updated. While systemd is being told of the group, Update waits.
func (c *Cgroup) Update(ctx context.Context, r *specs.LinuxResources) (Undo, error) {
	undo, err := c.tryUpdate(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("cannot update cgroup %s: %w", c.Path, err)
	}
	return undo, nil
}

// An Undo makes every limit what it was before an update, also where there was none,
// and tells systemd. was is what the update was put over.
type Undo func(ctx context.Context, was *specs.LinuxResources) error

func (c *Cgroup) undo(before []setting) Undo {
	return func(ctx context.Context, was *specs.LinuxResources) error {
		done, err := c.sys.turns.take(ctx, c.Path)
		if err != nil {
			return err
		}
		defer done()
		defer c.Adopt(0, was)
		return restore(before)
	}
}

func (c *Cgroup) tryUpdate(ctx context.Context, r *specs.LinuxResources) (Undo, error) {
	if r == nil {
		return c.undo(nil), nil
	}
	done, err := c.sys.turns.take(ctx, c.Path)
	if err != nil {
		return nil, err
	}
	defer done()
	limits, err := c.sys.convert(r)
	if err != nil {
		return nil, err
	}
	if perDevice(limits) {
		return nil, errors.New("limits of single block devices cannot be changed while a container runs")
	}
	limits.SkipDevices = true
	// v1 refuses by itself; v2 would kill.
	limits.MemoryCheckBeforeUpdate = true
	before, err := c.snapshot(limits)
	if err != nil {
		return nil, err
	}
	if err := c.sys.set(c.Path, limits); err != nil {
		return nil, errors.Join(err, restore(before))
	}
	return c.undo(before), nil
}

func perDevice(r *cgroups.Resources) bool {
	return len(r.BlkioWeightDevice)+len(r.BlkioThrottleReadBpsDevice)+len(r.BlkioThrottleWriteBpsDevice)+
		len(r.BlkioThrottleReadIOPSDevice)+len(r.BlkioThrottleWriteIOPSDevice) > 0
}

// A setting is the content of one file.
type setting struct{ dir, name, value string }

// snapshot reads every file that an update may write.
func (c *Cgroup) snapshot(r *cgroups.Resources) ([]setting, error) {
	var all []setting
	for _, file := range c.updatable(r) {
		dir, name := path.Split(file)
		value, err := readLine(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read present limits: %w", err)
		}
		all = append(all, setting{dir, name, value})
	}
	return all, nil
}

func (c *Cgroup) updatable(r *cgroups.Resources) []string {
	var files []string
	add := func(dir, name string) {
		file := path.Join(dir, name)
		if !strings.Contains(name, "*") {
			files = append(files, file)
			return
		}
		matches, _ := filepath.Glob(file) // fails for bad patterns only
		files = append(files, matches...)
	}
	if c.sys.Mode == V2 {
		dir := c.sys.unifiedDir(c.Path)
		for _, name := range updatableV2 {
			add(dir, name)
		}
		for name := range r.Unified {
			if !strings.ContainsAny(name, "/*") {
				add(dir, name)
			}
		}
		return files
	}
	for _, name := range updatableV1 {
		controller, _, _ := strings.Cut(name, ".")
		if dir := c.sys.dir(controller, c.Path); dir != "" {
			add(dir, name)
		}
	}
	return files
}

// restore writes back what has changed. Some limits bound each other (memory and
// memory with swap, quota and period): what the kernel refuses is tried again as
// long as anything else succeeds.
func restore(before []setting) error {
	for {
		var failed []setting
		var errs []error
		changed := 0
		for _, s := range before {
			now, err := readLine(s.dir, s.name)
			if err == nil && now == s.value {
				continue
			}
			changed++
			if err := cgroups.WriteFileByLine(s.dir, s.name, s.value+"\n"); err != nil {
				failed = append(failed, s)
				errs = append(errs, fmt.Errorf("cannot restore %s to %q: %w", s.name, s.value, err))
			}
		}
		if len(failed) == 0 || len(failed) == changed {
			return errors.Join(errs...)
		}
		before = failed
	}
}
