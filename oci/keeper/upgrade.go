package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper goes on as another binary by execve(2), which keeps pid, children and
// descriptors. All other threads vanish where they are, so that before it nothing
// may be under way: no spawn, no output read and not written, no exit reaped and
// not noted. A failure after it is the keeper's end: the other binary first shows
// that it can read the state.

// handoverVersion is that of the state's form. Fields are only ever added; a
// binary refuses a later version, and the keeper stays what it is.
const handoverVersion = 1

// maxHandover bounds the state when it is read, in bytes.
const maxHandover = 256 << 20

// A handover is what a keeper leaves to its next binary. Descriptors keep their
// numbers.
type handover struct {
	Version int          `json:"version"`
	Peer    int          `json:"peer"` // the daemon's socket
	Seq     uint64       `json:"seq"`  // of the request to answer
	Items   []handedItem `json:"items"`
	Strays  []stray      `json:"strays,omitempty"`
	// Slices are keeper.slices.
	Slices map[uint64]uint64 `json:"slices,omitempty"`
}

type handedItem struct {
	Item
	FDs  []int `json:"item_fds"` // as Names
	Seen *Exit `json:"seen,omitempty"`
	// Kills is held.kills.
	Kills *uint64          `json:"kills,omitempty"`
	Taps  map[string][]int `json:"taps,omitempty"`
	// Rests are the unfinished lines that are in no stash.
	Rests map[string][]byte `json:"rests,omitempty"`
}

type stray struct {
	PID   int `json:"pid"`
	PidFD int `json:"pidfd"`
}

// An upgrade happens between two requests, all of it within answerBound, or not
// at all.
const (
	trialBound = 2 * time.Second         // for the other binary to read the state
	spawnsEnd  = 500 * time.Millisecond  // for programs that are under way
	pumpsEnd   = 1500 * time.Millisecond // for output that is being written
)

// upgrade goes on as the binary in fds. It returns if that cannot be.
func (k *keeper) upgrade(m *message, fds []int) error {
	if len(fds) != 1 {
		closeAll(fds)
		return errors.New("cannot upgrade the keeper: no binary came")
	}
	defer unix.Close(fds[0])
	if err := k.goOnAs(m, fds[0]); err != nil {
		return fmt.Errorf("cannot upgrade the keeper, which goes on as it was: %w", err)
	}
	return nil
}

func (k *keeper) goOnAs(m *message, binary int) error {
	if err := within(spawnsEnd, k.spawns.Wait); err != nil {
		return fmt.Errorf("a program is under way: %w", err)
	}
	if k.pool.hung() {
		return errors.New("a program hangs in the kernel")
	}
	held := k.all()
	defer k.restartPumps(held)
	if err := k.pausePumps(held); err != nil {
		return err
	}
	k.ends.Lock()
	defer k.ends.Unlock()
	k.sendMu.Lock()
	defer k.sendMu.Unlock()
	state, fds := k.handover(m, held)
	file, err := writeHandover(state)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := try(binary, file); err != nil {
		return err
	}
	return k.exec(binary, m.Build, append(fds, int(file.Fd())))
}

// within waits for f, no longer than bound. f goes on in any case.
func within(bound time.Duration, f func()) error {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(bound):
		return fmt.Errorf("it has not ended within %v", bound)
	}
}

func (k *keeper) all() []*held {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]*held, 0, len(k.items))
	for _, h := range k.items {
		all = append(all, h)
	}
	return all
}

func (k *keeper) pausePumps(all []*held) error {
	for _, h := range all {
		if h.logger != nil {
			h.logger.pause()
		}
	}
	err := within(pumpsEnd, func() {
		for _, h := range all {
			if h.logger != nil {
				h.logger.pumps.Wait()
			}
		}
	})
	if err != nil {
		return fmt.Errorf("a log is being written: %w", err)
	}
	return nil
}

// restartPumps is for a keeper that stays what it was.
func (k *keeper) restartPumps(all []*held) {
	for _, h := range all {
		if h.logger == nil {
			continue
		}
		err := h.restartPumps()
		if err != nil {
			fmt.Fprintf(os.Stderr, "keeper: cannot go on with the log of %s: %v\n", h.ID, err)
		}
	}
}

func (h *held) restartPumps() error {
	log, err := h.own(FDLog)
	if err != nil {
		return err
	}
	if log != nil {
		defer log.Close()
	}
	return h.startPumps(log)
}

// handover lists everything, and the descriptors that stay open.
func (k *keeper) handover(m *message, all []*held) (*handover, []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	state := &handover{Version: handoverVersion, Peer: k.peer, Seq: m.Seq, Slices: maps.Clone(k.slices)}
	fds := []int{ListenerFD, k.peer}
	for _, h := range all {
		if k.items[h.ID] != h {
			continue // an exec that ended
		}
		item := handedItem{Item: h.Item, Seen: h.seen, Kills: h.kills}
		for _, name := range h.Names {
			item.FDs = append(item.FDs, h.fds[name])
		}
		fds = append(fds, item.FDs...)
		if h.logger != nil {
			item.Log = &Log{MaxLine: h.Log.MaxLine, Drops: h.logger.dropped()}
			item.Taps, item.Rests = h.logger.tapFDs(), h.logger.rests
			for _, list := range item.Taps {
				fds = append(fds, list...)
			}
		}
		state.Items = append(state.Items, item)
	}
	for w := range k.strays {
		w.raw.Control(func(fd uintptr) {
			state.Strays = append(state.Strays, stray{w.pid, int(fd)})
			fds = append(fds, int(fd))
		})
	}
	return state, fds
}

// writeHandover puts the state into a file in memory.
func writeHandover(state *handover) (*os.File, error) {
	fd, err := unix.MemfdCreate("handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot write the state: %w", os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "handover")
	if err := json.NewEncoder(f).Encode(state); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write the state: %w", err)
	}
	return f, nil
}

func readHandover(fd int) (*handover, error) {
	f := os.NewFile(uintptr(fd), "handover")
	if f == nil {
		return nil, errors.New("cannot read the state: no descriptor")
	}
	defer f.Close()
	state := new(handover)
	if err := json.NewDecoder(io.NewSectionReader(f, 0, maxHandover)).Decode(state); err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	if state.Version > handoverVersion {
		return nil, fmt.Errorf("cannot read the state: it has version %d, this binary knows %d", state.Version, handoverVersion)
	}
	return state, nil
}

// What the binary that is tried has open: the state and itself.
const (
	trialState = 3
	trialSelf  = 4
)

// try has the other binary read the state.
func try(binary int, state *os.File) error {
	self, err := dup(binary)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(self), "binary")
	defer file.Close()
	ctx, cancel := context.WithTimeout(context.Background(), trialBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", trialSelf))
	cmd.Args = []string{"cri-box", RoleTrial}
	cmd.Env, cmd.Dir = ownEnv(), "/"
	cmd.ExtraFiles = []*os.File{state, file}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("the new binary cannot take the state over: %w: %.1000s", err, out)
	}
	return nil
}

// exec is the point of no return, unless the kernel refuses.
func (k *keeper) exec(binary int, build string, keep []int) error {
	k.pool.close() // spawners end, and leave no zombie
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("cannot keep descriptor %d: %w", fd, err)
		}
	}
	args := []string{"cri-box", RoleKeeper, keeperSocket(), build, strconv.Itoa(keep[len(keep)-1])}
	err := syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", binary), args, ownEnv())
	for _, fd := range keep {
		unix.CloseOnExec(fd)
	}
	k.pool.refill()
	return os.NewSyscallError("execve", err)
}

// inherited reads the state that RoleKeeper's arguments name, if they do.
func inherited(args []string) (*handover, error) {
	if len(args) < 3 {
		return nil, nil
	}
	fd, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, fmt.Errorf("cannot go on: %w", err)
	}
	return readHandover(fd)
}

// keeperSocket and keeperBuild are what this keeper was started with.
func keeperSocket() string { return argument(2) }
func keeperBuild() string  { return argument(3) }

func argument(n int) string {
	if n < len(os.Args) {
		return os.Args[n]
	}
	return ""
}

func (k *keeper) hello() *message {
	return &message{Version: Version, PID: os.Getpid(), Build: keeperBuild()}
}

// resume goes on where the earlier binary stopped; true means that the daemon
// has told the keeper to end.
func (k *keeper) resume(state *handover) (end bool) {
	for _, s := range state.Strays {
		unix.CloseOnExec(s.PidFD)
		k.reapLater(spawned{spawnResult: spawnResult{PID: s.PID}, pidfd: s.PidFD}, 2*spawnBound)
	}
	for _, i := range state.Items {
		if err := k.resumeItem(i, state.Slices); err != nil {
			fmt.Fprintf(os.Stderr, "keeper: cannot go on with %s: %v\n", i.ID, err)
		}
	}
	if state.Peer < 0 {
		return false
	}
	unix.CloseOnExec(state.Peer)
	k.begin(state.Peer)
	reply := k.hello()
	reply.Seq = state.Seq
	k.send(state.Peer, reply, nil)
	for _, h := range k.all() { // perhaps a second time; or it ended just now, when there was no peer yet
		if k.hasExited(h) {
			k.tellExit(h)
		}
	}
	return k.talk(state.Peer)
}

func (k *keeper) hasExited(h *held) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return h.Exit != nil
}

func (k *keeper) resumeItem(i handedItem, slices map[uint64]uint64) error {
	if len(i.FDs) != len(i.Names) {
		return errors.New("its descriptors are missing")
	}
	for _, fd := range i.FDs {
		unix.CloseOnExec(fd)
	}
	h := k.hold(i.Item, i.FDs)
	h.seen, h.kills = i.Seen, i.Kills
	k.mu.Lock()
	k.items[i.ID] = h
	k.resumeCount(h, slices)
	k.mu.Unlock()
	pidfd, running := h.fds[FDPid]
	if !running {
		return nil
	}
	// Also if its end was told: its output may go on.
	if err := k.startLogs(h, i.Rests); err != nil {
		return err
	}
	for stream, fds := range i.Taps {
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			unix.SetNonblock(fd, true)
			h.logger.addTap(stream, os.NewFile(uintptr(fd), stream))
		}
	}
	var rest error
	if h.Exit != nil || h.seen != nil {
		rest = k.reapRest(pidfd, h.PID)
	}
	switch {
	case h.Exit != nil:
		return rest
	case h.seen != nil:
		go k.finish(h)
		return rest
	}
	return k.watch(h, pidfd)
}
