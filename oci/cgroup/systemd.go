package cgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	dbus "github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// With the systemd driver a container's group is that of a scope unit. cri-box makes
// the directory, with its limits, ahead of the container, which is born into it;
// systemd is told of the scope when the process runs, and takes over what is there:
// all limits are among the unit's properties, so that a reload keeps them. No request
// waits for that, and none needs systemd to answer.

// Running says whether systemd is this machine's first process.
func Running() bool { return systemd.IsRunningSystemd() }

// ParentSlice is the path of a pod's slice: what the kubelet gives as its parent, by
// name or path, or nothing where the parent is no slice.
func ParentSlice(parent string) (string, error) {
	name := path.Base(parent)
	if !strings.HasSuffix(name, ".slice") {
		return "", fmt.Errorf("cgroup parent %q: with the systemd driver it must be a slice, such as kubepods-pod1.slice", parent)
	}
	p, err := systemd.ExpandSlice(name)
	if err != nil {
		return "", fmt.Errorf("cgroup parent %q: %w", parent, err)
	}
	return p, nil
}

// ScopePrefix begins the names of all scopes.
const ScopePrefix = "cri-box-"

// GroupPath is the path of a container's group: <parent>/<id>, or a scope in a slice.
func GroupPath(parent, id string) string {
	if strings.HasSuffix(parent, ".slice") {
		return parent + "/" + ScopePrefix + id + ".scope"
	}
	return parent + "/" + id
}

// unitBound is how long systemd may take for one unit.
const unitBound = 10 * time.Second

// tries is how often a unit is tried again, a second apart, while systemd does not
// answer.
const tries = 60

// Units tells systemd of scopes and slices, in the order of what happened, one after
// the other and in the background.
type Units struct {
	sys   *System
	mu    sync.Mutex
	queue []unit
	wake  chan struct{}
	// wanted are the limits of the groups of which systemd still has to be told, by path.
	wanted map[string]*wanted
	conn   *dbus.Conn
	end    context.CancelFunc // of conn
}

// wanted are the newest limits of a group, for all units that are about it.
type wanted struct {
	limits *specs.LinuxResources
	units  int
}

// A unit is one thing to tell: that a scope has this process, or with pid 0, what its
// limits are by now, or that nothing is in a slice any more.
type unit struct {
	path  string
	pid   int
	empty bool
	tried int
	group *Cgroup // if its limits are known
	// told, if not nil, is closed in its turn, and nothing else is done.
	told chan struct{}
}

// UseSystemd makes systemd the driver; Driver says so from then on.
func (s *System) UseSystemd() {
	s.units = &Units{sys: s, wake: make(chan struct{}, 1), wanted: map[string]*wanted{}}
	go s.units.run()
}

// Adopt tells systemd, where it is the driver, of the scope at cgroupPath, with the
// process pid in it.
func (s *System) Adopt(cgroupPath string, pid int) {
	if s.units != nil && strings.HasSuffix(cgroupPath, ".scope") {
		s.units.add(unit{path: cgroupPath, pid: pid})
	}
}

// Adopt is the same for a group that has the limits in r: if they are gone meanwhile,
// it gets them again.
func (c *Cgroup) Adopt(pid int, r *specs.LinuxResources) {
	if c.sys.units != nil && inSlice(c.Path) {
		c.sys.units.want(c.Path, r)
		c.sys.units.add(unit{path: c.Path, pid: pid, group: c})
	}
}

// want notes a group's limits until the unit that is added next is told.
func (u *Units) want(path string, r *specs.LinuxResources) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wanted[path] == nil {
		u.wanted[path] = &wanted{}
	}
	u.wanted[path].limits = r
	u.wanted[path].units++
}

// settled forgets them with the last unit.
func (u *Units) settled(one unit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w := u.wanted[one.path]; one.group != nil && w != nil {
		if w.units--; w.units == 0 {
			delete(u.wanted, one.path)
		}
	}
}

// limit gives a unit's group its limits again. They may be gone; or systemd, where it did
// not answer in time, has done later what it was told then, or a retry just now what was
// wanted before an update.
func (u *Units) limit(one unit) error {
	first := one.tried == 0 && one.pid != 0
	if one.group == nil || first && !one.group.Lost() {
		return nil
	}
	u.mu.Lock()
	limits := u.wanted[one.path].limits
	u.mu.Unlock()
	return one.group.limit(limits)
}

func (u *Units) add(one unit) {
	u.mu.Lock()
	u.queue = append(u.queue, one)
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (u *Units) run() {
	for range u.wake {
		u.mu.Lock()
		queue := u.queue
		u.queue = nil
		u.mu.Unlock()
		for _, one := range queue {
			u.tell(one)
		}
	}
}

func (u *Units) tell(one unit) {
	if one.told != nil {
		close(one.told)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), unitBound)
	defer cancel()
	err := u.try(ctx, one)
	if err == nil || !one.empty && !u.sys.holds(one.path, one.pid) {
		u.settled(one)
		return
	}
	if one.tried == 0 {
		slog.Warn("systemd does not know of a container's scope or a pod's end yet", "unit", one.path, "err", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		u.hangUp()
	}
	if one.tried++; one.tried == tries {
		u.settled(one)
		return
	}
	time.AfterFunc(time.Second, func() { u.add(one) })
}

// dial connects to systemd, unless it has. A connection ends with the context that it
// was made with: that is one of its own.
func (u *Units) dial(ctx context.Context) error {
	if u.conn != nil && u.conn.Connected() {
		return nil
	}
	u.hangUp()
	own, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	conn, err := dbus.NewWithContext(own)
	if err != nil {
		end()
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	u.conn, u.end = conn, end
	if !stop() {
		return fmt.Errorf("cannot reach systemd: %w", ctx.Err())
	}
	return nil
}

func (u *Units) hangUp() {
	if u.conn != nil {
		u.conn.Close()
		u.end()
		u.conn = nil
	}
}

// holds says whether the process pid is in the group or below it, or with pid 0 any.
func (s *System) holds(cgroupPath string, pid int) bool {
	pids, err := s.procs(s.processDir(cgroupPath))
	return err == nil && (slices.Contains(pids, pid) || pid == 0 && len(pids) > 0)
}

// try tells systemd, unless it is no longer so: systemd would make scope and slice
// anew for a container that is gone, and put into it who has the pid by now.
func (u *Units) try(ctx context.Context, one unit) (err error) {
	if !one.empty && !u.sys.holds(one.path, one.pid) {
		return nil
	}
	if one.empty {
		if err := u.dial(ctx); err != nil {
			return err
		}
		return u.stop(ctx, one.path)
	}
	done, err := u.sys.turns.take(ctx, one.path)
	if err != nil {
		return err
	}
	defer done()
	if err := u.limit(one); err != nil {
		return err
	}
	if err := u.dial(ctx); err != nil {
		return err
	}
	return u.tellLimits(ctx, one)
}

// tellLimits has systemd take over the group with its limits.
func (u *Units) tellLimits(ctx context.Context, one unit) error {
	name := path.Base(one.path)
	limits, err := u.sys.unitLimits(one.path)
	if err != nil {
		return err
	}
	before, err := (&Cgroup{Path: one.path, sys: u.sys}).snapshot(&cgroups.Resources{})
	if err != nil {
		return err
	}
	if one.pid == 0 {
		err = u.set(ctx, name, limits)
	} else {
		err = u.start(ctx, name, one, limits)
	}
	// What systemd rounds, or has no property for, is as it was.
	return errors.Join(err, restore(before))
}

// set changes a scope's limits. systemd answers first and writes then, but before it
// reads another request.
func (u *Units) set(ctx context.Context, name string, limits []dbus.Property) error {
	if err := u.conn.SetUnitPropertiesContext(ctx, name, true, limits...); err != nil {
		return fmt.Errorf("cannot tell the limits of %s: %w", name, err)
	}
	if _, err := u.conn.GetUnitPropertyContext(ctx, name, "Id"); err != nil {
		return fmt.Errorf("systemd does not answer for %s: %w", name, err)
	}
	return nil
}

func (u *Units) start(ctx context.Context, name string, one unit, limits []dbus.Property) error {
	properties := append([]dbus.Property{
		dbus.PropSlice(path.Base(path.Dir(one.path))),
		dbus.PropDescription("cri-box container " + strings.TrimSuffix(strings.TrimPrefix(name, ScopePrefix), ".scope")),
		property("PIDs", []uint32{uint32(one.pid)}),
		property("Delegate", true),
		property("DefaultDependencies", false),
		property("CollectMode", "inactive-or-failed"),
	}, limits...)
	done := make(chan string, 1)
	_, err := u.conn.StartTransientUnitContext(ctx, name, "replace", properties, done)
	if err := finished(ctx, err, "UnitExists", done); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	return nil
}

// stop has systemd forget a slice in which nothing is left. One of which systemd
// was never told is a directory alone.
func (u *Units) stop(ctx context.Context, slice string) error {
	done := make(chan string, 1)
	_, err := u.conn.StopUnitContext(ctx, path.Base(slice), "replace", done)
	if err := finished(ctx, err, "NoSuchUnit", done); err != nil {
		return fmt.Errorf("cannot stop %s: %w", path.Base(slice), err)
	}
	return u.sys.removeNow(slice)
}

// finished waits for a job of systemd's. An error by that name means that there is
// nothing to do.
func finished(ctx context.Context, err error, fine string, done <-chan string) error {
	var known godbus.Error
	if errors.As(err, &known) && known.Name == "org.freedesktop.systemd1."+fine {
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd says %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("systemd does not answer: %w", ctx.Err())
	}
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// Lost says whether the group has its limits no longer: with the last scope of a slice
// systemd takes the controllers away from what is below it, also from a group that it
// was not told of yet.
func (c *Cgroup) Lost() bool {
	if !inSlice(c.Path) || c.oom == nil {
		return false
	}
	_, err := c.ownKills()
	return gone(err)
}

// limit sets the limits of a group that has lost them.
func (c *Cgroup) limit(r *specs.LinuxResources) error {
	limits, err := c.sys.convert(r)
	if err == nil {
		err = c.sys.enable(c.Path)
	}
	if err != nil || limits == nil {
		return err
	}
	limits.SkipDevices = true // systemd leaves those
	return c.sys.set(c.Path, limits)
}

// unitLimits are the group's limits as properties of its unit
// (systemd.resource-control(5)).
func (s *System) unitLimits(cgroupPath string) ([]dbus.Property, error) {
	dir := s.unifiedDir(cgroupPath)
	var out []dbus.Property
	for file, name := range map[string]string{
		"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
	} {
		line, err := readLine(dir, file)
		if gone(err) {
			continue // without that controller
		}
		if err != nil {
			return nil, err
		}
		n, ok := limitOf(line)
		if !ok {
			return nil, fmt.Errorf("%s/%s is %q, not a number", dir, file, line)
		}
		out = append(out, property(name, n))
	}
	for file, name := range map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"} {
		line, err := readLine(dir, file)
		if err != nil || line == "" {
			continue
		}
		bits, err := systemd.RangeToBits(line)
		if err != nil {
			return nil, err
		}
		out = append(out, property(name, bits))
	}
	for _, name := range []string{"CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting"} {
		out = append(out, property(name, true))
	}
	return append(out, cpuQuota(dir)...), nil
}

// cpuQuota is cpu.max, "max 100000" or quota and period, in microseconds.
func cpuQuota(dir string) []dbus.Property {
	line, err := readLine(dir, "cpu.max")
	quota, period, ok := strings.Cut(line, " ")
	if err != nil || !ok {
		return nil
	}
	p, err := strconv.ParseUint(period, 10, 64)
	if err != nil {
		return nil
	}
	perSecond := uint64(math.MaxUint64)
	if q, err := strconv.ParseUint(quota, 10, 64); err == nil && p > 0 {
		perSecond = q * uint64(time.Second/time.Microsecond) / p
	}
	return []dbus.Property{property("CPUQuotaPerSecUSec", perSecond), property("CPUQuotaPeriodUSec", p)}
}

func limitOf(line string) (uint64, bool) {
	if line == "max" {
		return math.MaxUint64, true
	}
	n, err := strconv.ParseUint(line, 10, 64)
	return n, err == nil
}

// StopSlice has systemd forget a slice of cri-box's own in which nothing is left, in
// the background; without systemd there is none.
func (s *System) StopSlice(slice string) {
	if s.units != nil && path.Ext(slice) == ".slice" {
		s.units.add(unit{path: slice, empty: true})
	}
}

// Settle waits until systemd was told, once, of all that has happened, as long as
// ctx. What is left after that the next daemon tells.
func (s *System) Settle(ctx context.Context) {
	if s.units == nil {
		return
	}
	told := make(chan struct{})
	s.units.add(unit{told: told})
	select {
	case <-told:
	case <-ctx.Done():
		slog.Warn("systemd was not told of everything", "why", ctx.Err())
	}
}

// Base is the group above an instance's own pods'.
func (s *System) Base(instance string) string {
	if s.units != nil {
		if slice, err := systemd.ExpandSlice(instance + ".slice"); err == nil {
			return slice
		}
	}
	return "/" + instance
}
