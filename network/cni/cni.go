// Package cni is the pod network that the cluster brings along: plugins by the
// Container Network Interface, up to CNI 1.1, as every other runtime runs them.
//
//	/etc/cni/net.d ──watched──▶ serving configuration ──ADD, DEL──▶ plugins
//	                                   │                               │
//	               Ready ◀──cached── STATUS in the background     attached/<pod id>
//
// What plugins are asked to do is on disk before they are asked. A DEL that failed
// is repeated until it succeeds; nobody waits for that. Every run of a plugin has
// a deadline and a limit for what it prints.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/cri-box/cri-box/network"
)

// Config is what Open needs.
type Config struct {
	// ConfDirs hold the network configurations; the first one that can be used, in
	// the order of directories and file names, serves.
	ConfDirs []string
	// BinDirs are searched for plugins.
	BinDirs []string
	// Dir is the instance's directory for attachments. It has to survive the boot,
	// as the plugins' own records do.
	Dir string
	// Timing has the bounds; each zero one gets its default.
	Timing Timing
}

// Timing is how long plugins may take and when they are asked.
type Timing struct {
	// Add, Del, Status and GC are the deadlines of one operation, all plugins of
	// the list together: 2 min, 20 s, 5 s, 10 s.
	Add, Del, Status, GC time.Duration
	// StatusEvery and GCEvery are the pauses between two: 10 s, 1 h.
	StatusEvery, GCEvery time.Duration
	// RetryFirst and RetryMost are the pauses before a failed DEL is repeated, the
	// first and, doubling, the longest: 5 s, 5 min.
	RetryFirst, RetryMost time.Duration
	// Settle is how long the directories have to be quiet before they are read:
	// 50 ms.
	Settle time.Duration
}

// failuresUntilNotReady is how often STATUS has to fail, one after the other,
// before a network that was ready is not any more.
const failuresUntilNotReady = 3

// Network runs CNI plugins. It implements network.Network.
type Network struct {
	cfg     Config
	plugins *libcni.CNIConfig
	journal *journal
	watch   *watch
	serving atomic.Pointer[serving]
	cidrs   atomic.Pointer[[]netip.Prefix]
	pods    locks
	gcGate  gate // ADD and DEL pass; GC closes it (CNI 1.1 wants them apart)

	statusNow, gcNow, retryNow chan struct{}
	swept                      sync.Once

	ctx  context.Context // of the goroutines, not of requests
	stop context.CancelFunc
	done sync.WaitGroup
}

var _ network.Network = (*Network)(nil)

// Open reads configuration and attachments and begins to watch. That there is no
// configuration is no error: Ready tells it.
func Open(cfg Config) (*Network, error) {
	if len(cfg.ConfDirs) == 0 || len(cfg.BinDirs) == 0 {
		return nil, errors.New("cannot use CNI: directories of configurations and of plugins have to be given")
	}
	cfg.Timing.fill()
	n := &Network{cfg: cfg, statusNow: make(chan struct{}, 1), gcNow: make(chan struct{}, 1), retryNow: make(chan struct{}, 1)}
	n.plugins = libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, filepath.Join(cfg.Dir, "cache"), &runner{})
	var err error
	if n.journal, err = openJournal(filepath.Join(cfg.Dir, "attached")); err != nil {
		return nil, err
	}
	if n.watch, err = newWatch(append(append([]string(nil), cfg.ConfDirs...), cfg.BinDirs...)); err != nil {
		slog.Warn("CNI directories are looked at now and then only", "error", err, "every", cfg.Timing.StatusEvery)
	}
	n.serving.Store(&serving{config: n.lastGood()})
	n.reload()
	kick(n.statusNow) // also of a configuration that is the last daemon's
	n.ctx, n.stop = context.WithCancel(context.Background())
	for _, loop := range []func(){n.follow, n.pollStatus, n.collect, n.retry} {
		n.done.Go(loop)
	}
	return n, nil
}

func (t *Timing) fill() {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Add, 2 * time.Minute}, {&t.Del, 20 * time.Second}, {&t.Status, 5 * time.Second}, {&t.GC, 10 * time.Second},
		{&t.StatusEvery, 10 * time.Second}, {&t.GCEvery, time.Hour}, {&t.RetryFirst, 5 * time.Second},
		{&t.RetryMost, 5 * time.Minute}, {&t.Settle, 50 * time.Millisecond},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
}

// SetPodCIDR sets what plugins with the capability ipRanges get.
func (n *Network) SetPodCIDR(cidrs []netip.Prefix) { n.cidrs.Store(&cidrs) }

// Ahead implements network.Network: plugins are told of pods only.
func (n *Network) Ahead(context.Context, string, int) (io.Closer, error) { return nil, nil }

// Attach implements network.Network: ADD.
func (n *Network) Attach(ctx context.Context, pod network.Pod) (network.Result, error) {
	if err := checkID(pod.ID); err != nil {
		return network.Result{}, err
	}
	unlock, err := n.pods.lock(ctx, pod.ID)
	if err != nil {
		return network.Result{}, err
	}
	defer unlock()
	if err := n.gcGate.enter(ctx); err != nil {
		return network.Result{}, err
	}
	defer n.gcGate.leave()
	if old, ok := n.journal.get(pod.ID); ok {
		if old.Result != nil && !old.Leaving && old.NetNS == pod.NetNSPath {
			return *old.Result, nil
		}
		if err := n.del(ctx, old); err != nil { // of a daemon that died in the middle
			return network.Result{}, fmt.Errorf("cannot take back what an earlier attempt left: %w", err)
		}
	}
	return n.add(ctx, pod)
}

func (n *Network) add(ctx context.Context, pod network.Pod) (network.Result, error) {
	one, list, err := n.intend(pod)
	if err != nil {
		return network.Result{}, err
	}
	if err := n.journal.save(one); err != nil {
		return network.Result{}, err
	}
	ctx, cancel := bound(ctx, n.cfg.Timing.Add, "ADD")
	defer cancel()
	raw, err := n.plugins.AddNetworkList(ctx, list, one.runtime())
	if err != nil {
		return network.Result{}, fmt.Errorf("cannot attach pod to network %s (%s): %w", list.Name, one.File, err)
	}
	result, err := understand(raw)
	if err != nil {
		return network.Result{}, fmt.Errorf("cannot attach pod to network %s (%s): %w", list.Name, one.File, err)
	}
	one.Result = &result
	return result, n.journal.save(one)
}

// intend is the record of what the plugins are about to be asked.
func (n *Network) intend(pod network.Pod) (attachment, *libcni.NetworkConfigList, error) {
	s := n.serving.Load()
	if s.config == nil {
		return attachment{}, nil, s.why
	}
	if !filepath.IsAbs(pod.NetNSPath) {
		return attachment{}, nil, fmt.Errorf("cannot attach pod: its network namespace is not pinned (path %q)", pod.NetNSPath)
	}
	args, err := podArgs(pod)
	if err != nil {
		return attachment{}, nil, err
	}
	var cidrs []netip.Prefix
	if p := n.cidrs.Load(); p != nil {
		cidrs = *p
	}
	caps, err := capabilities(pod, cidrs)
	if err != nil {
		return attachment{}, nil, err
	}
	return attachment{Version: journalVersion, Pod: pod.ID, Namespace: pod.Namespace, Name: pod.Name, NetNS: pod.NetNSPath,
		File: s.config.file, List: s.config.text, Args: args, Capabilities: caps}, s.config.list, nil
}

// Detach implements network.Network: DEL. A DEL that fails or hangs is repeated
// in the background, and is no error: the pod ends all the same.
func (n *Network) Detach(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, n.detach(ctx, id))
	}
	return errors.Join(errs...)
}

func (n *Network) detach(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if _, ok := n.journal.get(id); !ok {
		return nil
	}
	unlock, err := n.pods.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	one, ok := n.journal.get(id)
	if !ok {
		return nil
	}
	one.Leaving = true
	if err := n.journal.save(one); err != nil {
		return err
	}
	if n.gcGate.enter(ctx) != nil {
		kick(n.retryNow) // it is in the journal
		return nil
	}
	defer n.gcGate.leave()
	n.del(ctx, one) // a failure is in the journal and in the log
	return nil
}

// Sweep implements network.Network: what a pod that nobody knows left is taken
// back in the background. The first time the plugins' GC runs; then it has its timer.
func (n *Network) Sweep(_ context.Context, keep func(podID8 string) bool) error {
	var errs []error
	for _, one := range n.journal.all() {
		if !one.Leaving && !keep(one.Pod[:8]) {
			one.Leaving = true
			errs = append(errs, n.journal.save(one))
		}
	}
	kick(n.retryNow)
	n.swept.Do(func() { kick(n.gcNow) })
	return errors.Join(errs...)
}

// Close implements network.Network. Plugins that run are killed; what they were
// asked to do is in the journal.
func (n *Network) Close() error {
	n.stop()
	if n.watch != nil {
		n.watch.close()
	}
	n.done.Wait()
	return n.journal.dir.Close()
}

// Pending counts the pods that ended and whose DEL has not succeeded.
func (n *Network) Pending() (count int) {
	for _, one := range n.journal.all() {
		if one.Leaving {
			count++
		}
	}
	return count
}

// Attached says whether this network has to do with the pod.
func (n *Network) Attached(id string) bool {
	_, ok := n.journal.get(id)
	return ok
}

// bound limits an operation and gives its end a name.
func bound(ctx context.Context, limit time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("CNI %s took longer than %s: %w", what, limit, context.DeadlineExceeded))
}

// kick wakes a loop that may be busy; once is enough.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// locks keep two operations on one pod apart.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits until nobody else has the pod.
func (l *locks) lock(ctx context.Context, id string) (func(), error) {
	for {
		l.mu.Lock()
		busy, taken := l.held[id]
		if !taken {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			l.held[id] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, id)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for the plugins' work on pod %s: %w", short(id), context.Cause(ctx))
		}
	}
}
