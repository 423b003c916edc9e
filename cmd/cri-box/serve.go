package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/metrics"
	"github.com/cri-box/cri-box/cri"
	"github.com/cri-box/cri-box/cri/stream"
	"github.com/cri-box/cri-box/network/mode"
	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/apparmor"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/label"
	"github.com/cri-box/cri-box/sandbox"
	"golang.org/x/sys/unix"
)

// A daemon is everything that serve wires together, once, in this file.
type daemon struct {
	settings
	lock      *os.File
	groups    *cgroup.System
	images    *image.Store
	network   *mode.Network
	keeper    *keeper.Client
	runtime   *oci.Runtime
	sandboxes *sandbox.Manager
	streams   *stream.Server
	recovered atomic.Bool
	loaded    atomic.Pointer[loaded]
	gate      chan struct{} // closed when recovery is done
	hangups   chan os.Signal
	failures  failures
	metrics   *metrics.Metrics
}

func serve(s settings) error {
	if err := setLog(s.config.Log); err != nil {
		return err
	}
	boundHeap()
	ctx, _ := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM) // for good: a second signal does not cut the end short
	d := &daemon{settings: s, gate: make(chan struct{}), hangups: make(chan os.Signal, 1)}
	d.began()
	defer d.close()
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.run(ctx)
}

// open makes the parts, from the kernel up.
func (d *daemon) open(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.makeDirs, d.takeLock, d.openGroups, d.openImages, d.openNetwork, d.openKeeper, d.openRuntime, d.openSandboxes, d.openStreams,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs makes the directories with the modes that keep others out
// (CVE-2021-41103): layers hold set-user-id files of every image.
func (d *daemon) makeDirs(context.Context) error {
	unix.Umask(0o022)
	for dir, mode := range map[string]os.FileMode{d.root: 0o700, d.state: 0o711} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("cannot make directory: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("cannot close directory to others: %w", err)
		}
	}
	return nil
}

// errServed: a daemon has the state directory.
var errServed = errors.New("another cri-box does")

// takeLock makes sure that one daemon serves a state directory.
func (d *daemon) takeLock(context.Context) error {
	path := filepath.Join(d.state, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open lock: %w", err)
	}
	if err := lockSoon(int(f.Fd())); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		return fmt.Errorf("cannot serve %s: %w (pid %s); use another --state and --root", d.state, errServed, strings.TrimSpace(string(pid)))
	}
	d.lock = f
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("cannot write lock: %w", err)
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	return err
}

// lockBound is how long the lock of a daemon that was killed may be held by a
// child that it was forking: until that child's execve.
const lockBound = 2 * time.Second

func lockSoon(fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	got := make(chan error, 1)
	go func() {
		err := unix.Flock(fd, unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		got <- err
	}()
	select {
	case err := <-got:
		return err
	case <-time.After(lockBound): // the other one lives, and this process ends
		return err
	}
}

func (d *daemon) openGroups(context.Context) (err error) {
	if d.groups, err = cgroup.Detect(); err != nil {
		return err
	}
	driver := d.config.Cgroup.Driver
	usual := cgroup.Running() && d.groups.Mode == cgroup.V2
	switch {
	case driver == "systemd" && !usual:
		return errors.New("cannot use cgroup.driver = systemd: systemd must be the first process, and control groups v2; cgroupfs works here")
	case driver == "systemd", driver == "auto" && usual:
		d.groups.UseSystemd()
	}
	return nil
}

func (d *daemon) openImages(context.Context) (err error) {
	d.images, err = image.Open(imageConfig(d.root, d.config.Image))
	return err
}

func (d *daemon) openNetwork(context.Context) (err error) {
	d.network, err = mode.Open(d.networkConfig())
	return err
}

func (d *daemon) openKeeper(ctx context.Context) error {
	build, err := embeddedKeeper()
	if err != nil {
		return err
	}
	group, err := ownGroups()
	if err != nil {
		slog.Warn("daemon and keeper share a control group", "err", err)
	}
	cfg := keeper.Config{Socket: filepath.Join(d.state, "keeper.sock"), LogPath: filepath.Join(d.state, "keeper.log"), Build: build,
		Binary: func() (string, error) { return keeperBinary(d.root) }, Renewed: func() { dropOldKeepers(d.root, build) }, Group: group, MaxLine: int(d.config.Container.MaxLogLine)}
	if stored := storedFiles(); stored != nil {
		cfg.Store, cfg.Stored = newFDStore(), stored
	}
	d.keeper, err = keeper.Dial(ctx, cfg)
	return err
}

func (d *daemon) openRuntime(context.Context) (err error) {
	d.runtime, err = oci.New(oci.Config{Keeper: d.keeper, Cgroups: d.groups, StateDir: d.state, RootDir: d.root,
		CgroupBase: d.groups.Base(d.instance()), MaxLogLine: int(d.config.Container.MaxLogLine), Fault: d.faults(),
		Took: func(id, name string, took time.Duration) { d.sandboxes.Took(id, name, took) }})
	return err
}

func (d *daemon) openSandboxes(ctx context.Context) error {
	host, err := oci.HostFacts(d.groups)
	if err != nil {
		return err
	}
	if err := d.runtime.TryUserNamespaces(ctx); err != nil {
		host.NoUserNamespaces = err.Error()
		slog.Warn("pods cannot have user namespaces", "why", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("cannot read boot id: %w", err)
	}
	d.sandboxes, err = sandbox.New(sandbox.Config{Slices: d.groups.Driver() == "systemd", Instance: d.instance(), StateDir: d.state, RootDir: d.root,
		BootID: strings.TrimSpace(string(boot)), Network: d.network, Images: d.images, Runtime: d.runtime, Cgroups: d.runtime,
		Logs: d.runtime, Custody: d.keeper, Labels: label.Open(), Host: host, Policy: policy(d.config.Container), Fault: d.faults()})
	return err
}

func (d *daemon) openStreams(context.Context) (err error) {
	d.streams, err = stream.Listen()
	return err
}

// run serves until ctx ends. Version and Status answer at once; the rest waits
// for recovery.
func (d *daemon) run(ctx context.Context) error {
	endTracing, err := startTracing(ctx, d.config.Tracing)
	if err != nil {
		return err
	}
	defer endTracing()
	d.metrics = metrics.New(d.sources())
	server := d.newServer()
	listener, err := cri.Listen(d.listen)
	if err != nil {
		return err
	}
	admin, err := d.startAdmin()
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := d.startMetrics(ctx); err != nil {
		return err
	}
	d.stacksOnSignal(ctx)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	go d.sandboxes.WatchExits(ctx)
	go d.loadAppArmor(ctx)
	go giveBack(ctx, d.sandboxes.DropIdle)
	go d.reloadOnSignal(ctx)
	if err := d.recover(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return fmt.Errorf("cannot serve %s: %w", d.listen, err)
	case <-ctx.Done():
		notify("STOPPING=1")
		d.stop(server)
		return nil
	}
}

// loadAppArmor loads the default profile before a container needs it.
func (d *daemon) loadAppArmor(ctx context.Context) {
	if !apparmor.Active() {
		return
	}
	if err := d.runtime.UseAppArmor(ctx, apparmor.Default); err != nil {
		slog.Warn("containers have no default AppArmor profile", "why", err)
	}
}

func (d *daemon) recover(ctx context.Context) error {
	began := time.Now()
	if err := d.sandboxes.Recover(ctx); err != nil {
		return err
	}
	d.keeper.Notify(d.sandboxes.OnExit)
	if err := d.images.Collect(); err != nil {
		slog.Error("cannot collect unused layers", "err", err)
	}
	go d.sandboxes.KeepReconciling(ctx)
	d.adoptScopes()
	d.recovered.Store(true)
	close(d.gate)
	s := d.sandboxes.List()
	slog.Info("ready", "socket", d.listen, "config", d.describe(), "pods", len(s.Pods), "containers", len(s.Containers), "took", time.Since(began))
	notify("READY=1")
	go d.keepWatchdog(ctx)
	return nil
}

// settleBound is how long the end of a daemon waits for systemd.
const settleBound = 5 * time.Second

func (d *daemon) close() {
	if d.streams != nil {
		d.streams.Close()
	}
	if d.sandboxes != nil {
		d.sandboxes.Close()
	}
	if d.keeper != nil {
		d.keeper.Close()
	}
	if d.groups != nil {
		ctx, cancel := context.WithTimeout(context.Background(), settleBound)
		d.groups.Settle(ctx)
		cancel()
	}
	if d.network != nil {
		d.network.Close()
	}
	if d.images != nil {
		d.images.Close()
	}
	if d.lock != nil {
		d.lock.Close()
	}
}
