package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// upgradeAgain is when a keeper is asked again that could not be upgraded at once:
// a program was under way, or hangs.
const upgradeAgain = time.Minute

// renew has a keeper of another build go on as this daemon's, and ends when it is
// or cannot.
func (c *Client) renew() {
	defer c.done.Done()
	for {
		err := c.upgrade(context.Background())
		switch {
		case err == nil, errors.Is(err, ErrKeeperLost): // the next one is of our build
			if c.cfg.Renewed != nil && c.cfg.Build != "" {
				c.cfg.Renewed()
			}
			return
		case errors.Is(err, errTooOld):
			slog.Warn("the keeper goes on as an older build, for it cannot be upgraded", "err", err)
			return
		}
		slog.Warn("the keeper goes on as another build for now", "err", err)
		select {
		case <-c.closing:
			return
		case <-time.After(upgradeAgain):
		}
	}
}

var errTooOld = errors.New("its protocol has no such request")

// upgrade has the keeper of the moment go on as our build, if it is of another.
func (c *Client) upgrade(ctx context.Context) error {
	l, err := c.live(ctx)
	if err != nil || c.cfg.Build == "" || l.build == c.cfg.Build {
		return err
	}
	if l.version < since[verbUpgrade] {
		return fmt.Errorf("cannot upgrade keeper %d, which speaks version %d: %w", l.pid, l.version, errTooOld)
	}
	path, err := c.cfg.Binary()
	if err != nil {
		return err
	}
	binary, err := cloneBinary(path)
	if err != nil {
		return err
	}
	defer binary.Close()
	began := time.Now()
	now, _, err := l.ask(ctx, &message{Verb: verbUpgrade, Build: c.cfg.Build}, []int{int(binary.Fd())})
	if err != nil {
		return err
	}
	slog.Info("keeper upgraded in place", "pid", l.pid, "from", l.build, "to", now.Build, "took", time.Since(began))
	return nil
}
