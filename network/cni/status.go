package cni

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
)

// serving is what Ready answers from; it is replaced whole, never changed.
type serving struct {
	config   *configuration // nil: nothing can be used, and why says it
	why      error          // why no pod can be attached; nil: one can
	problems []Problem      // files that cannot be used
	status   status
}

// status is what STATUS said of the configuration that serves.
type status struct {
	asked    bool // at least once
	failures int  // one after the other
	ready    bool
	last     error
	at       time.Time
}

// errNotAsked is the state before the first answer.
var errNotAsked = errors.New("the plugins' STATUS has not answered yet")

// Ready implements network.Network. It answers from memory and runs nothing.
func (n *Network) Ready() error {
	s := n.serving.Load()
	if s.why != nil {
		return s.why
	}
	if !asks(s.config.list) || s.status.ready {
		return nil
	}
	if !s.status.asked {
		return fmt.Errorf("network %s (%s): %w", s.config.list.Name, s.config.file, errNotAsked)
	}
	return fmt.Errorf("network %s (%s): STATUS failed %d times: %w", s.config.list.Name, s.config.file, s.status.failures, s.status.last)
}

// Note is for a person what does not keep pods from starting: files that cannot
// be used while another one serves. It may be empty.
func (n *Network) Note() string {
	s := n.serving.Load()
	if s.config == nil || len(s.problems) == 0 {
		return ""
	}
	texts := []string{fmt.Sprintf("network %s serves as last read from %s", s.config.list.Name, s.config.file)}
	for _, p := range s.problems {
		texts = append(texts, "cannot use "+p.String())
	}
	return strings.Join(texts, "; ")
}

// Configured says whether there is a configuration that can be used.
func (n *Network) Configured() bool { return n.serving.Load().config != nil }

// asks says whether the network's version knows STATUS and GC.
func asks(list *libcni.NetworkConfigList) bool {
	known, _ := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return known
}

// reload reads the directories and takes over what changed. It is called by Open
// and then by follow alone; pollStatus replaces only the status in between.
func (n *Network) reload() {
	old := n.serving.Load()
	config, problems, err := choose(n.cfg.ConfDirs, n.cfg.BinDirs, old.config)
	next := &serving{config: config, why: err, problems: problems}
	if config != nil {
		if gone := missing(config.list, n.cfg.BinDirs); gone != nil {
			next.why = fmt.Errorf("%s: %w", config.file, gone)
		}
	}
	changed := !same(old.config, config)
	for {
		old = n.serving.Load()
		next.status = old.status
		if changed { // a network that only got another text stays ready until it says otherwise
			next.status = status{ready: old.status.ready && sameName(old.config, config)}
		}
		if n.serving.CompareAndSwap(old, next) {
			break
		}
	}
	if changed {
		n.tell(next)
	}
}

// same says whether nothing changed that plugins would see.
func same(a, b *configuration) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.file == b.file && string(a.text) == string(b.text)
}

func sameName(a, b *configuration) bool { return a != nil && b != nil && a.list.Name == b.list.Name }

// tell logs a change, keeps the configuration for the next daemon and has STATUS
// and the failed DELs looked at.
func (n *Network) tell(s *serving) {
	kick(n.statusNow)
	kick(n.retryNow)
	if s.config == nil {
		slog.Warn("no CNI configuration serves", "why", s.why)
		return
	}
	slog.Info("CNI configuration serves", "network", s.config.list.Name, "file", s.config.file)
	if err := n.keep(s.config); err != nil {
		slog.Warn("cannot keep the CNI configuration", "error", err)
	}
}

// keep stores the configuration that serves, so that a file that breaks while the
// daemon is away does not take the network down.
func (n *Network) keep(c *configuration) error {
	for _, part := range []struct {
		name string
		data []byte
	}{{"serving.file", []byte(c.file)}, {"serving.conflist", c.text}} {
		path := filepath.Join(n.cfg.Dir, part.name)
		if err := os.WriteFile(path+".tmp", part.data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			return err
		}
	}
	return nil
}

// lastGood returns what keep stored; nil if there is nothing that can be used.
func (n *Network) lastGood() *configuration {
	file, err := readLimited(filepath.Join(n.cfg.Dir, "serving.file"))
	if err != nil {
		return nil
	}
	text, err := readLimited(filepath.Join(n.cfg.Dir, "serving.conflist"))
	if err != nil {
		return nil
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil
	}
	return &configuration{string(file), list, text}
}

// follow reads the directories again when they changed, and now and then in case
// a change was not told.
func (n *Network) follow() {
	changes := make(chan struct{}, 1)
	if n.watch != nil {
		n.done.Go(func() { n.watch.run(func() { kick(changes) }) })
	}
	tick := time.NewTicker(n.cfg.Timing.StatusEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		case <-changes:
			select { // whoever writes three files is not asked after the first
			case <-n.ctx.Done():
				return
			case <-time.After(n.cfg.Timing.Settle):
			}
			select {
			case <-changes:
			default:
			}
		}
		if n.watch != nil {
			n.watch.arm() // before reading: what changes from now on is told
		}
		n.reload()
	}
}

// pollStatus asks the plugins how they are: when told to, and now and then.
func (n *Network) pollStatus() {
	tick := time.NewTicker(n.cfg.Timing.StatusEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		case <-n.statusNow:
		}
		n.askStatus()
	}
}

func (n *Network) askStatus() {
	asked := n.serving.Load()
	if asked.config == nil || !asks(asked.config.list) {
		return
	}
	ctx, cancel := bound(n.ctx, n.cfg.Timing.Status, "STATUS")
	err := n.plugins.GetStatusNetworkList(ctx, asked.config.list)
	cancel()
	for n.ctx.Err() == nil {
		old := n.serving.Load()
		if !same(old.config, asked.config) {
			return // the answer is about another configuration
		}
		next := *old
		next.status = old.status.after(err)
		if n.serving.CompareAndSwap(old, &next) {
			if next.status.ready != old.status.ready || !old.status.asked {
				slog.Info("CNI STATUS", "network", asked.config.list.Name, "ready", next.status.ready, "error", err)
			}
			return
		}
	}
}

// after is the state with one more answer: one success is enough to be ready, one
// failure is not enough to stop being so.
func (s status) after(err error) status {
	next := status{asked: true, ready: true, at: time.Now(), last: err}
	if err != nil {
		next.failures = s.failures + 1
		next.ready = s.ready && next.failures < failuresUntilNotReady
	}
	return next
}
