package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Store holds descriptors a third time, for when daemon and keeper die at once:
// systemd's (sd_pid_notify_with_fds(3)). Its methods must not block. Names are
// <item>/<descriptor>.
type Store interface {
	// Put stores a duplicate of f, in place of what had the name.
	Put(name string, f *os.File)
	// Drop forgets what has the name.
	Drop(name string)
}

// store puts an item's descriptors there, all or those named. Commands are not
// stored: nobody waits for them any more. c.mu is held.
func (c *Client) store(k *Kept, names ...string) {
	if c.cfg.Store == nil || k.Kind == KindExec {
		return
	}
	if len(names) == 0 {
		for name := range k.FDs {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if f := k.FDs[name]; f != nil {
			c.cfg.Store.Put(k.ID+"/"+name, f)
		}
	}
}

// unstore forgets an item's descriptors, all or those named. c.mu is held.
func (c *Client) unstore(k *Kept, names ...string) {
	if c.cfg.Store == nil || k.Kind == KindExec {
		return
	}
	if len(names) == 0 {
		for name := range k.FDs {
			names = append(names, name)
		}
	}
	for _, name := range names {
		c.cfg.Store.Drop(k.ID + "/" + name)
	}
}

// recall settles what the store gave back. A keeper that lived knows better: what it
// does not keep was released. One that was just started has nothing and gets it.
func (c *Client) recall(ctx context.Context) {
	stored := map[string]map[string]*os.File{}
	for name, f := range c.cfg.Stored {
		id, fd, _ := strings.Cut(name, "/")
		if stored[id] == nil {
			stored[id] = map[string]*os.File{}
		}
		stored[id][fd] = f
	}
	c.cfg.Stored = nil
	for id, files := range stored {
		c.recallItem(ctx, id, files)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, k := range c.items {
		for name := range k.FDs {
			if stored[id][name] == nil {
				c.store(k, name)
			}
		}
	}
}

func (c *Client) recallItem(ctx context.Context, id string, files map[string]*os.File) {
	c.mu.Lock()
	k := c.items[id]
	c.mu.Unlock()
	var err error
	if k == nil && c.Starts() > 0 {
		var item Item
		if item, err = c.storedItem(id, files); err == nil {
			err = c.Adopt(ctx, item, files)
		}
		if err == nil {
			return
		}
		slog.Warn("cannot take back what systemd stored", "id", id, "err", err)
	}
	for name, f := range files {
		if k == nil || k.FDs[name] == nil {
			c.cfg.Store.Drop(id + "/" + name)
		}
		f.Close()
	}
}

// storedItem says what an item was by what is left of it. A process that has ended
// meanwhile is nothing to keep.
func (c *Client) storedItem(id string, files map[string]*os.File) (Item, error) {
	pidfd := files[FDPid]
	if pidfd == nil {
		return Item{ID: id, Kind: KindPod}, nil
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		return Item{}, fmt.Errorf("its process has ended: %w", err)
	}
	item := Item{ID: id, Kind: KindContainer, PID: pidOf(pidfd)}
	if item.PID <= 0 {
		return Item{}, fmt.Errorf("its process has no pid here")
	}
	if files[FDTTY] != nil || files[FDStdout] != nil {
		item.Log = &Log{MaxLine: c.cfg.MaxLine}
	}
	return item, nil
}

// pidOf reads a pidfd's pid (proc_pid_fdinfo(5)), 0 if there is none.
func pidOf(pidfd *os.File) int {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0
	}
	var pid int
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			fmt.Sscan(v, &pid)
		}
	}
	return pid
}
