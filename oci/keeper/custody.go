package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Hold takes files, by name, into custody under a pod's id.
func (c *Client) Hold(ctx context.Context, id string, files map[string]*os.File) error {
	return c.Adopt(ctx, Item{ID: id, Kind: KindPod}, files)
}

// Adopt takes an item into custody that exists already, such as a process that
// outlived an earlier daemon and keeper, with its files by name. They become the
// client's.
func (c *Client) Adopt(ctx context.Context, item Item, files map[string]*os.File) error {
	id, k := item.ID, &Kept{Item: item, FDs: files}
	c.mu.Lock()
	if c.items[id] != nil {
		c.mu.Unlock()
		k.close()
		return fmt.Errorf("cannot hold %s: it is kept already", id)
	}
	c.items[id] = k
	l := c.link
	c.mu.Unlock()
	if err := c.adopt(ctx, l, id); err != nil && !errors.Is(err, ErrKeeperLost) { // the next one gets it too
		c.mu.Lock()
		delete(c.items, id)
		c.mu.Unlock()
		k.close()
		return fmt.Errorf("cannot hold %s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[id] == k {
		c.store(k)
	}
	return nil
}

// Release ends the custody of an item, here and there. What is not kept is
// released already.
func (c *Client) Release(ctx context.Context, id string) error {
	c.mu.Lock()
	k := c.items[id]
	delete(c.items, id)
	if k != nil {
		c.unstore(k)
	}
	c.mu.Unlock()
	if k == nil {
		return nil
	}
	k.close()
	_, _, err := c.ask(ctx, &message{Verb: verbRelease, Item: &Item{ID: id}}, nil)
	return err
}

// ReopenLog makes f the log; nothing goes to the old one when it returns. f
// becomes the client's.
func (c *Client) ReopenLog(ctx context.Context, id string, f *os.File) error {
	if _, _, err := c.ask(ctx, &message{Verb: verbRelog, Item: &Item{ID: id}}, []int{int(f.Fd())}); err != nil {
		f.Close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.items[id]
	if k == nil {
		return f.Close()
	}
	if old := k.FDs[FDLog]; old != nil {
		old.Close()
	}
	k.FDs[FDLog] = f
	c.store(k, FDLog)
	return nil
}

// Tap copies a container's output from now on to the write ends given by stream
// (stdout, stderr); they stay the caller's, who closes its own. A copy ends with
// its stream, when its reader is gone or does not read for ten seconds, and with
// the keeper: then lost is closed, and the next keeper can be asked. What the
// container writes meanwhile waits in its pipe.
func (c *Client) Tap(ctx context.Context, id string, pipes map[string]*os.File) (lost <-chan struct{}, err error) {
	m := &message{Verb: verbTap, Item: &Item{ID: id}}
	var fds []int
	for stream, f := range pipes {
		m.Names = append(m.Names, stream)
		fds = append(fds, int(f.Fd()))
	}
	l, err := c.live(ctx)
	if err != nil {
		return nil, err
	}
	_, _, err = l.ask(ctx, m, fds)
	return l.dead, err
}

// Ping asks the keeper of the moment for an answer.
func (c *Client) Ping(ctx context.Context) error {
	_, _, err := c.current().ask(ctx, &message{Verb: verbHello, Version: Version}, nil)
	return err
}

// CloseFDs closes kept descriptors, here and there: stdin, to end it.
func (c *Client) CloseFDs(ctx context.Context, id string, names ...string) error {
	c.mu.Lock()
	if k := c.items[id]; k != nil {
		c.unstore(k, names...)
		for _, name := range names {
			if f := k.FDs[name]; f != nil {
				f.Close()
				delete(k.FDs, name)
			}
		}
	}
	c.mu.Unlock()
	_, _, err := c.ask(ctx, &message{Verb: verbClose, Item: &Item{ID: id}, Names: names}, nil)
	return err
}
