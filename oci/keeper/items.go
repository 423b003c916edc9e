package keeper

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

func (k *keeper) adopt(m *message, fds []int) *message {
	if m.Item == nil || len(fds) != len(m.Item.Names) {
		closeAll(fds)
		return &message{Err: "cannot adopt: descriptors are missing"}
	}
	if err := k.keep(*m.Item, fds); err != nil {
		return fail(err)
	}
	return &message{}
}

func (k *keeper) find(id string) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.items[id]
}

func (k *keeper) relog(m *message, fds []int) *message {
	h := k.find(m.Item.ID)
	if h == nil || h.logger == nil || len(fds) != 1 {
		closeAll(fds)
		return &message{Err: fmt.Sprintf("cannot reopen the log of %s: it has none", m.Item.ID)}
	}
	own, err := dup(fds[0])
	if err != nil {
		closeAll(fds)
		return fail(err)
	}
	k.mu.Lock()
	old, had := h.fds[FDLog]
	h.fds[FDLog] = fds[0]
	if had {
		unix.Close(old)
	} else {
		h.Names = append(h.Names, FDLog)
	}
	k.mu.Unlock()
	h.logger.reopen(os.NewFile(uintptr(own), FDLog))
	return &message{}
}

// tellUnwritable tells the daemon that a log cannot be written. One that is away
// sees it in the list.
func (k *keeper) tellUnwritable(id string, why error) {
	k.mu.Lock()
	peer := k.peer
	k.mu.Unlock()
	k.send(peer, &message{Verb: verbFull, Item: &Item{ID: id}, Err: why.Error()}, nil)
}

// tap attaches a client: Names says which streams the descriptors take.
func (k *keeper) tap(m *message, fds []int) *message {
	h := k.find(m.Item.ID)
	if h == nil || h.logger == nil || len(fds) != len(m.Names) {
		closeAll(fds)
		return &message{Err: fmt.Sprintf("cannot attach to %s: it is not running", m.Item.ID)}
	}
	for i, stream := range m.Names {
		unix.SetNonblock(fds[i], true)
		h.logger.addTap(stream, os.NewFile(uintptr(fds[i]), stream))
	}
	return &message{}
}

func (k *keeper) release(id string) {
	k.mu.Lock()
	h := k.items[id]
	delete(k.items, id)
	if h != nil && h.slice != 0 {
		k.endCount(h.slice)
	}
	k.mu.Unlock()
	if h != nil {
		h.close()
	}
}

func (h *held) close() {
	for _, fd := range h.fds {
		unix.Close(fd)
	}
	if h.logger != nil {
		h.logger.close()
	}
}

func (k *keeper) closeNames(id string, names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.items[id]
	if h == nil {
		return
	}
	for _, name := range names {
		if fd, ok := h.fds[name]; ok {
			unix.Close(fd)
			delete(h.fds, name)
		}
		h.Names = slices.DeleteFunc(h.Names, func(n string) bool { return n == name })
	}
}

// list sends every item with its descriptors.
func (k *keeper) list(fd int, m *message) {
	k.mu.Lock()
	all := make([]*held, 0, len(k.items))
	for _, h := range k.items {
		all = append(all, h)
	}
	k.mu.Unlock()
	for _, h := range all {
		k.mu.Lock()
		if k.items[h.ID] != h { // an exec that ended meanwhile: its descriptors are closed
			k.mu.Unlock()
			continue
		}
		item := h.Item
		item.Names = slices.Clone(h.Names)
		fds, mine, err := h.sendable()
		k.mu.Unlock()
		if err != nil {
			fmt.Fprintf(os.Stderr, "keeper: cannot list %s: %v\n", item.ID, err)
			continue
		}
		if h.logger != nil {
			log := *item.Log
			log.Drops = h.logger.dropped()
			item.Log = &log
		}
		k.reply(fd, m, &message{Verb: verbList, Item: &item}, fds)
		closeAll(mine)
	}
	k.reply(fd, m, &message{}, nil)
}

// sendable gives an item's descriptors for the list, and those among them to close
// then. An exec's are closed as it ends and so are duplicated, all others' by a request
// only, which comes after the list: they need no descriptor that there may not be.
func (h *held) sendable() (fds, mine []int, err error) {
	for _, name := range h.Names {
		fd := h.fds[name]
		if h.Kind == KindExec {
			if fd, err = dup(fd); err != nil {
				closeAll(mine)
				return nil, nil, err
			}
			mine = append(mine, fd)
		}
		fds = append(fds, fd)
	}
	return fds, mine, nil
}
