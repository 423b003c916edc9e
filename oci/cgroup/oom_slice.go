package cgroup

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// systemd removes a scope's group once its last process has ended, and with it the
// count of kills for want of memory. The keeper counts them (KillCounters). Where there
// was none: the pod's slice stays and counts for all below it (memory.events is hierarchical): what is
// there and was counted for no other group happened in the one that is gone.

// sliceKills is what is known of the kills below one slice.
type sliceKills struct {
	base  uint64 // of before, and of groups that nobody had open
	known map[string]uint64
}

// inSlice says whether the group is a scope, which systemd removes.
func inSlice(cgroupPath string) bool { return strings.HasSuffix(cgroupPath, ".scope") }

// watchSlice begins to count for a group that was opened just now.
func (s *System) watchSlice(c *Cgroup) {
	if !inSlice(c.Path) || c.oom == nil {
		return
	}
	s.kills.Lock()
	defer s.kills.Unlock()
	slice := path.Dir(c.Path)
	own, err := c.ownKills()
	total, ok := s.totalKills(slice)
	if err != nil || !ok {
		return
	}
	if s.kills.slices == nil {
		s.kills.slices = map[string]*sliceKills{}
	}
	k := s.kills.slices[slice]
	if k == nil {
		k = &sliceKills{base: total, known: map[string]uint64{}}
		s.kills.slices[slice] = k
	}
	if _, again := k.known[c.Path]; !again {
		k.base -= min(own, k.base) // they are in known from now on
		k.known[c.Path] = own
	}
}

// killsOfGone is the count of a scope whose group is gone.
func (s *System) killsOfGone(c *Cgroup) uint64 {
	s.kills.Lock()
	defer s.kills.Unlock()
	k := s.kills.slices[path.Dir(c.Path)]
	total, ok := s.totalKills(path.Dir(c.Path))
	if k == nil || !ok {
		return 0
	}
	others := k.base
	for group, n := range k.known {
		if group == c.Path {
			continue
		}
		if now, err := s.killsOf(group); err == nil {
			n, k.known[group] = now, now
		}
		others += n
	}
	if total > others {
		k.known[c.Path] = total - others
	}
	return k.known[c.Path]
}

// KillCounters opens the files with the counts of a scope and of its slice, for who
// is there when its last process ends; nil for a group that stays.
func (c *Cgroup) KillCounters() (own, slice *os.File, err error) {
	if !inSlice(c.Path) || c.oom == nil {
		return nil, nil, nil
	}
	dir := c.sys.unifiedDir(c.Path)
	own, err = openFile(unix.AT_FDCWD, path.Join(dir, "memory.events"), unix.O_RDONLY)
	if err == nil {
		slice, err = openFile(unix.AT_FDCWD, path.Join(path.Dir(dir), "memory.events"), unix.O_RDONLY)
	}
	if err != nil {
		own.Close() // of nil too
		return nil, nil, fmt.Errorf("cannot watch cgroup %s: %w", c.Path, err)
	}
	return own, slice, nil
}

// KillsCounted takes in how many there were in a scope, from who had its KillCounters.
func (s *System) KillsCounted(cgroupPath string, n uint64) {
	s.kills.Lock()
	defer s.kills.Unlock()
	if k := s.kills.slices[path.Dir(cgroupPath)]; k != nil {
		k.known[cgroupPath] = n
	}
}

// forgetKills ends what is known of a scope that was removed, and with the last one of
// its slice: a container that is started again and again has another scope each time.
func (s *System) forgetKills(cgroupPath string) {
	if !inSlice(cgroupPath) {
		return
	}
	slice := path.Dir(cgroupPath)
	_, err := os.Stat(s.unifiedDir(slice))
	s.kills.Lock()
	defer s.kills.Unlock()
	k := s.kills.slices[slice]
	if k == nil {
		return
	}
	k.base += k.known[cgroupPath]
	delete(k.known, cgroupPath)
	if err != nil || len(k.known) == 0 {
		delete(s.kills.slices, slice)
	}
}

func (s *System) totalKills(slice string) (uint64, bool) {
	n, err := s.killsOf(slice)
	return n, err == nil
}

// killsOf reads the count of a group that nobody has open.
func (s *System) killsOf(cgroupPath string) (uint64, error) {
	f, err := openFile(unix.AT_FDCWD, path.Join(s.unifiedDir(cgroupPath), "memory.events"), unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return (&Cgroup{Path: cgroupPath, sys: s, oom: f}).ownKills()
}
