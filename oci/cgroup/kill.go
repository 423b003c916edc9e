package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process in the group and those below, also to one
// that is being forked meanwhile. It does not wait for their end: WaitEmpty does.
// In a group that is gone there is none: the kubelet removes a pod's cgroup, with
// the containers' below it, as soon as they are empty.
func (c *Cgroup) Kill(ctx context.Context) error {
	err := c.writeUnified("cgroup.kill", "1")
	if errors.Is(err, os.ErrNotExist) { // V1, or v2 before Linux 5.14
		err = c.killFrozen(ctx)
	}
	if gone(err) && !c.exists() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot kill cgroup %s: %w", c.Path, err)
	}
	return nil
}

// exists says whether the group's directory is there: an open one does not tell.
func (c *Cgroup) exists() bool {
	_, err := os.Stat(c.sys.processDir(c.Path))
	return err == nil
}

// killFrozen kills one by one what is frozen and so cannot fork. v1 cannot always
// freeze a group in which processes keep appearing: then that is repeated until
// none is left.
func (c *Cgroup) killFrozen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	for {
		frozen := c.freeze(ctx, true)
		if err := c.killEach(ctx); frozen == nil || err != nil {
			return errors.Join(frozen, err)
		}
		if pids, err := c.sys.procs(c.sys.processDir(c.Path)); err != nil || len(pids) == 0 {
			return err
		}
		if ctx.Err() != nil {
			return frozen
		}
	}
}

// killEach kills every process that is there now, and thaws them.
func (c *Cgroup) killEach(ctx context.Context) error {
	pids, err := c.sys.procs(c.sys.processDir(c.Path))
	for _, pid := range pids {
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("cannot kill process %d: %w", pid, e))
		}
	}
	// A frozen process of v1 dies once it thaws.
	return errors.Join(err, c.freeze(ctx, false))
}

// Freeze stops every process in the group and those below, and returns when all
// have stopped. If that fails they run on.
func (c *Cgroup) Freeze(ctx context.Context) error {
	if err := c.freeze(ctx, true); err != nil {
		return errors.Join(fmt.Errorf("cannot freeze cgroup %s: %w", c.Path, err), c.freeze(ctx, false))
	}
	return nil
}

// Thaw lets them run on.
func (c *Cgroup) Thaw(ctx context.Context) error {
	if err := c.freeze(ctx, false); err != nil {
		return fmt.Errorf("cannot thaw cgroup %s: %w", c.Path, err)
	}
	return nil
}

func (c *Cgroup) freeze(ctx context.Context, on bool) error {
	if c.unified == nil {
		return c.freezeV1(on)
	}
	value, want := "0", uint64(0)
	if on {
		value, want = "1", 1
	}
	if err := c.writeUnified("cgroup.freeze", value); err != nil || !on {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	return waitEvent(ctx, c.unified, "frozen", want)
}

// freezeV1 leaves to the library what v1 needs: to ask again and again.
func (c *Cgroup) freezeV1(on bool) error {
	state := cgroups.Thawed
	if on {
		state = cgroups.Frozen
	}
	dir := c.sys.dir("freezer", c.Path)
	if dir == "" {
		return errors.New("this host has no freezer controller")
	}
	return (&fs.FreezerGroup{}).Set(dir, &cgroups.Resources{Freezer: state})
}

func (c *Cgroup) writeUnified(name, value string) error {
	if c.unified == nil {
		return os.ErrNotExist
	}
	f, err := openFile(int(c.unified.Fd()), name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("cannot write %q: %w", value, err)
	}
	return nil
}
