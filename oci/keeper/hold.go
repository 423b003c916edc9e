package keeper

import (
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// keep takes over an item and its descriptors, and starts to watch and log it.
func (k *keeper) keep(item Item, fds []int) error { return k.keepFor(0, item, fds) }

// keepFor does so as long as the session lasts; 0 stands for any.
func (k *keeper) keepFor(session int, item Item, fds []int) error {
	h := k.hold(item, fds)
	k.mu.Lock()
	if session != 0 && session != k.session {
		k.mu.Unlock()
		h.close()
		return errForsaken
	}
	if old := k.items[item.ID]; old != nil {
		k.mu.Unlock()
		h.close()
		return fmt.Errorf("cannot keep %s: it is kept already", item.ID)
	}
	k.items[item.ID] = h
	k.beginCount(h)
	k.mu.Unlock()
	pidfd, ok := h.fds[FDPid]
	if !ok || item.Exit != nil {
		return nil
	}
	if err := k.startLogs(h, nil); err != nil {
		return err
	}
	return k.watch(h, pidfd)
}

// hold makes an item of what the keeper was given.
func (k *keeper) hold(item Item, fds []int) *held {
	h := &held{Item: item, fds: map[string]int{}}
	for i, name := range item.Names {
		if name == FDStdout || name == FDStderr || name == FDTTY || name == FDStdin {
			unix.SetNonblock(fds[i], true)
		}
		h.fds[name] = fds[i]
	}
	return h
}

// watch waits for the end in the background.
func (k *keeper) watch(h *held, pidfd int) error {
	pidfd, err := dup(pidfd)
	if err != nil {
		return err
	}
	w, err := newWaiter(pidfd, h.PID)
	if err != nil {
		return err
	}
	go k.await(h, w)
	return nil
}

func dup(fd int) (int, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return fd, os.NewSyscallError("dup", err)
}

// own duplicates a kept descriptor for the logger; nil if it is not kept.
func (h *held) own(name string) (*os.File, error) {
	kept, ok := h.fds[name]
	if !ok {
		return nil, nil
	}
	fd, err := dup(kept)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// startLogs starts a pump for each stream, on descriptors of its own. rests are
// unfinished lines that are in no stash.
func (k *keeper) startLogs(h *held, rests map[string][]byte) error {
	if h.Log == nil {
		return nil
	}
	file, err := h.own(FDLog)
	if err != nil {
		return err
	}
	h.logger = newLogger(h.Log, file)
	h.logger.last = h.seen != nil || h.Exit != nil
	maps.Copy(h.logger.rests, rests)
	h.logger.tell = func(why error) { go k.tellUnwritable(h.ID, why) }
	return h.startPumps(file)
}

// startPumps starts those that do not run; log is where they write.
func (h *held) startPumps(log *os.File) error {
	inputs := map[string]*os.File{}
	for _, stream := range []string{FDStdout, FDStderr, FDTTY} {
		if !h.logger.wantsPump(stream) {
			continue
		}
		own, err := h.own(stream) // non-blocking already: in the poller
		if err != nil {
			return err
		}
		if own != nil {
			inputs[stream] = own
		}
	}
	stashes, err := h.openStashes(log, inputs)
	if err != nil {
		return err
	}
	for stream, input := range inputs {
		h.logger.start(stream, input, stashes[stream])
	}
	return nil
}

// openStashes gives the stash of each of the streams, after what an earlier keeper was
// writing has been settled. One that cannot be used is left out: the container's
// output matters more.
func (h *held) openStashes(log *os.File, streams map[string]*os.File) (map[string]*stash, error) {
	stashes := map[string]*stash{}
	for stream, name := range map[string]string{FDStdout: FDStashOut, FDStderr: FDStashErr} {
		if streams[stream] == nil {
			continue
		}
		f, err := h.own(name)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		s, err := openStash(f)
		if err == nil {
			err = s.settle(log)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "keeper: %s of %s: %v\n", name, h.ID, err)
			f.Close()
			continue
		}
		stashes[stream] = s
	}
	return stashes, nil
}

// drainBound is how long the report of an exit waits for the rest of the output:
// a background child may keep the pipe open for ever.
const drainBound = 2 * time.Second

// await waits for the process, then for its last output, and reports.
func (k *keeper) await(h *held, w *waiter) {
	if err := w.ended(); err != nil {
		return
	}
	k.countKills(h) // at once: systemd removes the group as well
	k.ends.RLock()
	exit := w.exit()
	k.mu.Lock()
	exit.Kills = k.kills(h, exit)
	h.seen = &exit
	k.mu.Unlock()
	if w.traced {
		k.stray(w, w.rest)
	}
	k.ends.RUnlock()
	if !w.traced {
		w.f.Close()
	}
	k.finish(h)
}

// finish waits for the last output of a process whose end was seen, and reports.
func (k *keeper) finish(h *held) {
	if h.logger != nil {
		h.logger.exited()
		drained := make(chan struct{})
		go func() { h.logger.streams.Wait(); close(drained) }()
		select {
		case <-drained:
		case <-time.After(drainBound):
		}
	}
	k.ends.RLock()
	defer k.ends.RUnlock()
	k.mu.Lock()
	h.Exit = h.seen
	k.mu.Unlock()
	k.tellExit(h)
	if h.Kind == KindExec {
		k.release(h.ID)
	}
}

// tellExit tells the daemon of an end. One that is away sees it in the list.
func (k *keeper) tellExit(h *held) {
	k.mu.Lock()
	item, peer := h.Item, k.peer
	k.mu.Unlock()
	item.Names = nil
	k.send(peer, &message{Verb: verbExit, Item: &item}, nil)
}
