package oci

import (
	"errors"
	"os"

	"github.com/cri-box/cri-box/oci/cgroup"
)

// Stats reads what a group has used; its processes are those of the container and
// of commands in it. The error of one that is not there is
// fs.ErrNotExist.
func (r *Runtime) Stats(id, path string) (st cgroup.Stats, err error) {
	err = r.measure(id, path, func(g *cgroup.Cgroup) error {
		st, err = g.Stats()
		if err == nil {
			st.Processes += g.ProcessesBelow(execPrefix)
		}
		return err
	})
	return st, err
}

// Detail reads what is counted beside Stats.
func (r *Runtime) Detail(id, path string) (d cgroup.Detail, err error) {
	err = r.measure(id, path, func(g *cgroup.Cgroup) error {
		d, err = g.Detail()
		return err
	})
	return d, err
}

// Members lists at most limit processes of the group.
func (r *Runtime) Members(id, path string, limit int) (pids []int, err error) {
	err = r.measure(id, path, func(g *cgroup.Cgroup) error {
		pids, err = g.Members(limit)
		return err
	})
	return pids, err
}

// measure does so with the group that is held, or, if that one is gone, with the
// one that is there now: a pod's own group goes with its last container and comes
// back with the next.
func (r *Runtime) measure(id, path string, read func(*cgroup.Cgroup) error) error {
	for try := range 2 {
		g, err := r.cgroupOf(id, path)
		if err != nil {
			return err
		}
		if err = read(g); err == nil || !errors.Is(err, os.ErrNotExist) || try > 0 {
			return err
		}
		r.drop(id, g)
	}
	return nil
}

// drop lets go of a group, if it is the one that is held.
func (r *Runtime) drop(id string, g *cgroup.Cgroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.groups[id] == g {
		delete(r.groups, id)
		g.Close()
	}
}

// Forget closes what is held of a group that is measured no more.
func (r *Runtime) Forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[id]; g != nil {
		delete(r.groups, id)
		g.Close()
	}
}
