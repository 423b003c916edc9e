package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci"
)

// A layer is walked again when its last walk is older than diskAge, and so much
// older that all walks together take a twentieth of the time.
const (
	diskAge   = 10 * time.Second
	diskShare = 20
	diskBound = time.Minute // of one walk
)

// disks knows how much the containers wrote. Where the file system does not count
// it (project quota), layers are walked in the background,
// one after the other, and only those that somebody asks for.
type disks struct {
	ctx  context.Context
	stop context.CancelFunc
	walk func(ctx context.Context, id string) (oci.DiskUse, error)
	// count answers at once, for layers that the file system counts.
	count func(id string) (oci.DiskUse, bool)

	mu      sync.Mutex
	known   map[string]*diskState
	queue   []string
	took    time.Duration // the last walks of all that are known
	walking bool
	work    sync.WaitGroup
}

type diskState struct {
	use    oci.DiskUse // At is zero before the first walk
	queued bool
}

func (d *disks) init(walk func(ctx context.Context, id string) (oci.DiskUse, error), count func(id string) (oci.DiskUse, bool)) {
	d.walk, d.count, d.known = walk, count, map[string]*diskState{}
	d.ctx, d.stop = context.WithCancel(context.Background())
}

func (d *disks) close() {
	d.stop()
	d.work.Wait()
}

// use returns what the file system counts of a layer, or what is known of it, nil
// if nothing is yet, and has it walked if that is old. It does not wait.
func (d *disks) use(id string) *oci.DiskUse {
	if u, ok := d.count(id); ok {
		return &u
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.known[id]
	if s == nil {
		s = &diskState{}
		d.known[id] = s
	}
	if !s.queued && time.Since(s.use.At) > max(diskAge, diskShare*d.took) && d.ctx.Err() == nil {
		s.queued = true
		d.queue = append(d.queue, id)
		if !d.walking {
			d.walking = true
			d.work.Go(d.walkAll)
		}
	}
	if s.use.At.IsZero() {
		return nil
	}
	u := s.use
	return &u
}

func (d *disks) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.known[id]; s != nil {
		d.took -= s.use.Took
		delete(d.known, id)
	}
	d.queue = slices.DeleteFunc(d.queue, func(q string) bool { return q == id })
}

// walkAll walks what is queued until nothing is.
func (d *disks) walkAll() {
	for {
		id := d.next()
		if id == "" {
			return
		}
		ctx, cancel := context.WithTimeout(d.ctx, diskBound)
		u, err := d.walk(ctx, id)
		cancel()
		if err != nil && !errors.Is(err, fs.ErrNotExist) && d.ctx.Err() == nil {
			logger(id).Warn("cannot measure writable layer", "err", err)
		}
		d.walked(id, u, err)
	}
}

func (d *disks) next() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 || d.ctx.Err() != nil {
		d.walking = false
		return ""
	}
	id := d.queue[0]
	d.queue = d.queue[1:]
	return id
}

// walked takes in a result. One that a limit cut short is the least that is there.
func (d *disks) walked(id string, u oci.DiskUse, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.known[id]
	if s == nil {
		return
	}
	s.queued = false
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	d.took += u.Took - s.use.Took
	s.use = u
}
