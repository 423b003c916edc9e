package keeper

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// Whether a container ran out of memory is known from the count of its control group
// (memory.events in cgroup-v2.rst), which systemd removes as soon as its last process
// has ended. The keeper reads it at that moment. Where systemd was faster, it goes by
// the slice, whose count has those of all below it: what is there and is nobody
// else's. keeper.slices has, for each slice, by its file's inode, how many kills are
// of no item that still runs.

// beginCount begins to count for an item. k.mu is held.
func (k *keeper) beginCount(h *held) {
	total, ok := h.count(FDSliceKills)
	var st unix.Stat_t
	if !ok || unix.Fstat(h.fds[FDSliceKills], &st) != nil {
		return
	}
	h.slice = st.Ino
	if _, again := k.slices[h.slice]; !again {
		k.slices[h.slice] = total
	}
	if own, ok := h.count(FDKills); ok && h.running() {
		k.slices[h.slice] -= min(own, k.slices[h.slice])
	}
}

// resumeCount goes on with what an earlier build has counted; nil if it told of none.
// k.mu is held.
func (k *keeper) resumeCount(h *held, slices map[uint64]uint64) {
	var st unix.Stat_t
	if fd, ok := h.fds[FDSliceKills]; ok && unix.Fstat(fd, &st) == nil {
		if n, handed := slices[st.Ino]; handed {
			h.slice = st.Ino
			if _, again := k.slices[h.slice]; !again {
				k.slices[h.slice] = n
			}
			return
		}
	}
	k.beginCount(h)
}

// endCount forgets a slice with its last item. k.mu is held.
func (k *keeper) endCount(slice uint64) {
	for _, other := range k.items {
		if other.slice == slice {
			return
		}
	}
	delete(k.slices, slice)
}

// running says whether its count is its group's still.
func (h *held) running() bool { return h.kills == nil && h.seen == nil && h.Exit == nil }

// countKills reads the count of an item whose process has ended, if it is there.
func (k *keeper) countKills(h *held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := h.count(FDKills)
	if !ok || h.kills != nil { // read before an upgrade
		return
	}
	h.kills = &n
	if h.slice != 0 {
		k.slices[h.slice] += n
	}
}

// kills says how many there were in the end; nil if nobody knows. k.mu is held.
func (k *keeper) kills(h *held, exit Exit) *uint64 {
	total, ok := h.count(FDSliceKills)
	if h.kills != nil || h.slice == 0 || !ok {
		return h.kills
	}
	others, alone := k.slices[h.slice], true
	for _, other := range k.items {
		if other == h || other.slice != h.slice || !other.running() {
			continue
		}
		if n, ok := other.count(FDKills); ok {
			others += n
		} else {
			alone = false // it has ended just now as well
		}
	}
	n := total - min(others, total)
	switch {
	case alone:
	case exit.Signal == int(unix.SIGKILL):
		n = min(n, 1) // each of them has one, and the last the rest
	default:
		n = 0
	}
	k.slices[h.slice] += n
	h.kills = &n
	return h.kills
}

// count reads oom_kill of a kept memory.events, which fails once the group is gone.
func (h *held) count(name string) (uint64, bool) {
	fd, ok := h.fds[name]
	if !ok {
		return 0, false
	}
	var buf [512]byte
	n, err := retry(func() (int, error) { return unix.Pread(fd, buf[:], 0) })
	if err != nil {
		return 0, false
	}
	_, after, ok := bytes.Cut(buf[:n], []byte("\noom_kill "))
	number, _, _ := bytes.Cut(after, []byte("\n"))
	count, err := strconv.ParseUint(string(number), 10, 64)
	return count, ok && err == nil
}
