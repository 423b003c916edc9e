package cni

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types"
)

// retriers is how many failed DELs are repeated side by side: one that hangs does
// not hold up the others.
const retriers = 4

// del runs DEL and forgets the attachment; a failure is noted with the time of the
// next attempt. The caller has the pod's lock.
func (n *Network) del(ctx context.Context, one attachment) error {
	err := n.runDel(ctx, &one)
	if err == nil {
		return n.journal.drop(one.Pod)
	}
	one.Leaving = true
	one.Attempts++
	one.Next = time.Now().Add(n.backOff(one.Attempts))
	one.LastError = err.Error()
	slog.Warn("CNI DEL failed and will be repeated", "pod", one.Namespace+"/"+one.Name, "id", short(one.Pod),
		"attempts", one.Attempts, "next", one.Next.Format(time.RFC3339), "error", err)
	if e := n.journal.save(one); e != nil {
		slog.Error("cannot note a failed CNI DEL", "id", short(one.Pod), "error", e)
	}
	kick(n.retryNow)
	return err
}

func (n *Network) runDel(ctx context.Context, one *attachment) error {
	list, err := one.network()
	if err != nil {
		return err
	}
	ctx, cancel := bound(ctx, n.cfg.Timing.Del, "DEL")
	defer cancel()
	if err := n.plugins.DelNetworkList(ctx, list, one.runtime()); err != nil {
		return fmt.Errorf("cannot detach pod from network %s (%s): %w", list.Name, one.File, err)
	}
	return nil
}

// backOff doubles with each attempt.
func (n *Network) backOff(attempts int) time.Duration {
	return min(n.cfg.Timing.RetryFirst<<min(attempts-1, 16), n.cfg.Timing.RetryMost)
}

// retry repeats DELs when their time has come.
func (n *Network) retry() {
	slots := make(chan struct{}, retriers)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
		case <-n.retryNow:
		}
		timer.Reset(n.retryDue(slots))
	}
}

// retryDue starts what is due and returns how long nothing else is.
func (n *Network) retryDue(slots chan struct{}) time.Duration {
	wait := n.cfg.Timing.RetryMost
	for _, one := range n.journal.all() {
		if !one.Leaving {
			continue
		}
		if left := time.Until(one.Next); left > 0 {
			wait = min(wait, left)
			continue
		}
		select {
		case slots <- struct{}{}:
			n.done.Go(func() {
				defer kick(n.retryNow)
				defer func() { <-slots }()
				n.retryOne(one.Pod)
			})
		default:
			return wait // all are busy; the first to end comes back here
		}
	}
	return wait
}

func (n *Network) retryOne(id string) {
	unlock, err := n.pods.lock(n.ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	one, ok := n.journal.get(id)
	if !ok || !one.Leaving || time.Until(one.Next) > 0 {
		return
	}
	if n.gcGate.enter(n.ctx) != nil {
		return
	}
	defer n.gcGate.leave()
	if n.del(n.ctx, one) == nil {
		slog.Info("CNI DEL succeeded at last", "id", short(id), "attempts", one.Attempts+1)
	}
}

// gcRetry is how soon GC is tried again when ADDs or DELs were under way.
const gcRetry = 10 * time.Second

// collect runs the plugins' GC when the pods are known, and then on a timer.
func (n *Network) collect() {
	select { // not before Sweep: until then nobody knows what is valid
	case <-n.ctx.Done():
		return
	case <-n.gcNow:
	}
	for {
		wait := n.cfg.Timing.GCEvery
		if n.gcGate.close() {
			n.gc()
			n.gcGate.open()
		} else {
			wait = min(wait, gcRetry)
		}
		select {
		case <-n.ctx.Done():
			return
		case <-n.gcNow:
		case <-time.After(wait):
		}
	}
}

// gc tells the plugins which attachments are valid. libcni's own collection is not
// used: it looks at its cache, which is empty here; DELs are the journal's.
func (n *Network) gc() {
	s := n.serving.Load()
	if s.config == nil {
		return
	}
	valid := []cnitypes.GCAttachment{} // not nil: an empty list has to be told
	for _, one := range n.journal.all() {
		if list, err := one.network(); err == nil && list.Name == s.config.list.Name && !one.Leaving {
			valid = append(valid, cnitypes.GCAttachment{ContainerID: one.Pod, IfName: ifName})
		}
	}
	ctx, cancel := bound(n.ctx, n.cfg.Timing.GC, "GC")
	defer cancel()
	plugins := libcni.NewCNIConfigWithCacheDir(n.cfg.BinDirs, n.cfg.Dir+"/none", &runner{})
	if err := plugins.GCNetworkList(ctx, s.config.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		slog.Warn("CNI GC failed", "network", s.config.list.Name, "error", err)
	}
}
