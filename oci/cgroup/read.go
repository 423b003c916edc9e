package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// measures are the v1 controllers that something is measured with.
var measures = []string{"cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"}

// A directories holds a group's directories from the first measurement on, so
// that later ones neither walk a path nor meet another group of the same name.
type directories struct {
	mu     sync.Mutex
	closed bool
	open   []*os.File // one for each v1 hierarchy, nil where nothing is measured
}

// heldShare is the part of the daemon's descriptors that measurements may hold, as
// a divisor: on v1 a pod with one container has a dozen, as many as it needs to run.
const heldShare = 4

// heldMost is how many that are: a group that would exceed them opens its
// directories for each measurement.
var heldMost = sync.OnceValue(func() int64 {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0
	}
	return int64(min(files.Cur, 1<<30)) / heldShare
})

// measured opens the group's v1 directories, once. done is called after use.
func (c *Cgroup) measured() (dirs []*os.File, done func(), err error) {
	c.dirs.mu.Lock()
	defer c.dirs.mu.Unlock()
	keep := func() {}
	switch {
	case c.dirs.closed:
		return nil, nil, os.ErrNotExist
	case c.dirs.open != nil || len(c.sys.v1) == 0:
		return c.dirs.open, keep, nil
	}
	if dirs, err = c.openMeasured(); err != nil {
		return nil, nil, err
	}
	if c.sys.held.Add(count(dirs)) > heldMost() {
		c.sys.held.Add(-count(dirs))
		return dirs, func() { closeAll(dirs) }, nil
	}
	c.dirs.open = dirs
	return dirs, keep, nil
}

func (c *Cgroup) openMeasured() ([]*os.File, error) {
	open := make([]*os.File, len(c.sys.v1))
	for i, h := range c.sys.v1 {
		if !slices.ContainsFunc(h.controllers, func(name string) bool { return slices.Contains(measures, name) }) {
			continue
		}
		fd, err := openFD(unix.AT_FDCWD, path.Join(h.dir, c.Path), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			closeAll(open)
			return nil, err
		}
		open[i] = os.NewFile(uintptr(fd), h.dir) // a dozen for each pod: without names of their own
	}
	return open, nil
}

func count(files []*os.File) (n int64) {
	for _, f := range files {
		if f != nil {
			n++
		}
	}
	return n
}

// close lets go of what is held, and says how many that were.
func (d *directories) close() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := count(d.open)
	closeAll(d.open)
	d.open, d.closed = nil, true
	return held
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// A reader reads the group's files; its first error sticks. A file that this
// host does not have reads as empty.
type reader struct {
	cgroup *Cgroup
	dirs   []*os.File
	buf    [8192]byte
	err    error
}

// readers are those that nobody uses: one with its buffer for each group of a node
// would be garbage in megabytes every few seconds.
var readers = sync.Pool{New: func() any { return new(reader) }}

// reader returns one; release it after use.
func (c *Cgroup) reader(dirs []*os.File) *reader {
	r := readers.Get().(*reader)
	r.cgroup, r.dirs, r.err = c, dirs, nil
	return r
}

func (r *reader) release() {
	r.cgroup, r.dirs, r.err = nil, nil, nil
	readers.Put(r)
}

// file reads a file of the group with that v1 controller, or of the v2 group.
// What it returns is valid until the next call.
func (r *reader) file(controller, name string) []byte {
	n := 0
	err := r.open(r.dir(controller), name, func(fd int) (err error) {
		// The kernel gives such a file whole if it fits.
		n, err = unix.Read(fd, r.buf[:])
		return err
	})
	switch {
	case err == nil:
		return r.buf[:n]
	case errors.Is(err, unix.EOPNOTSUPP): // pressure is turned off
	case !errors.Is(err, os.ErrNotExist):
		r.fail(err)
	}
	return nil
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// dir is the group's directory with that v1 controller or, without one, on v2;
// nil if there is none.
func (r *reader) dir(controller string) *os.File {
	if controller == "" {
		return r.cgroup.unified
	}
	for i, h := range r.cgroup.sys.v1 {
		if slices.Contains(h.controllers, controller) && i < len(r.dirs) {
			return r.dirs[i]
		}
	}
	return nil
}

// open opens a file in dir for use. dir may be closed by somebody else at any
// moment: Control keeps its number from being given to another file meanwhile.
func (r *reader) open(dir *os.File, name string, use func(fd int) error) error {
	if r.err != nil || dir == nil {
		return os.ErrNotExist
	}
	conn, err := dir.SyscallConn()
	if err != nil {
		return os.ErrNotExist
	}
	var failed error
	err = conn.Control(func(at uintptr) {
		var fd int
		if fd, failed = openFD(int(at), name, unix.O_RDONLY); failed != nil {
			return
		}
		defer unix.Close(fd)
		if failed = use(fd); failed != nil {
			failed = &os.PathError{Op: "read", Path: name, Err: failed}
		}
	})
	if err != nil { // closed: the group is being removed
		return os.ErrNotExist
	}
	return failed
}

// anyDir is a directory in which the group's processes are: with v1 also those of
// commands, which have groups of their own on v2.
func (r *reader) anyDir() *os.File {
	for _, f := range r.dirs {
		if f != nil {
			return f
		}
	}
	return r.cgroup.unified
}

// processes counts the group's own processes. Every group has that file: if it
// is missing the group has been removed, while other files may just not exist on
// this host.
func (r *reader) processes() uint64 {
	count, err := r.countProcesses("cgroup.procs")
	switch {
	case errors.Is(err, unix.EOPNOTSUPP): // a threaded group (cgroup-v2.rst)
	case errors.Is(err, unix.ENODEV):
		r.fail(os.ErrNotExist)
	case err != nil:
		r.fail(err)
	}
	return count
}

func (r *reader) countProcesses(file string) (count uint64, err error) {
	err = r.open(r.anyDir(), file, func(fd int) error {
		for {
			n, err := unix.Read(fd, r.buf[:])
			if err != nil || n <= 0 {
				return err
			}
			count += uint64(bytes.Count(r.buf[:n], []byte{'\n'}))
		}
	})
	return count, err
}

// maxBelow is how many groups below one are looked at: a container may make many.
const maxBelow = 256

// ProcessesBelow counts the processes in the groups right below whose names begin
// with prefix and that are not counted with the group itself, as on v1 they are.
func (c *Cgroup) ProcessesBelow(prefix string) uint64 {
	if len(c.sys.v1) > 0 {
		return 0
	}
	r := c.reader(nil)
	defer r.release()
	var count uint64
	for _, name := range r.below(prefix) {
		n, err := r.countProcesses(name + "/cgroup.procs")
		if err == nil { // else it went meanwhile
			count += n
		}
	}
	return count
}

func (r *reader) below(prefix string) (names []string) {
	err := r.open(r.cgroup.unified, ".", func(fd int) error {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		dir := os.NewFile(uintptr(own), ".")
		defer dir.Close()
		entries, err := dir.ReadDir(maxBelow)
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
				names = append(names, e.Name())
			}
		}
		return err
	})
	if err != nil {
		return nil
	}
	return names
}

// Members lists at most limit of the group's own processes.
func (c *Cgroup) Members(limit int) ([]int, error) {
	dirs, done, err := c.measured()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes of cgroup %s: %w", c.Path, err)
	}
	defer done()
	r := c.reader(dirs)
	defer r.release()
	var pids []int
	err = r.open(r.anyDir(), "cgroup.procs", func(fd int) error {
		n, err := unix.Read(fd, r.buf[:])
		for line := range strings.Lines(string(r.buf[:max(n, 0)])) {
			pid, parse := strconv.Atoi(strings.TrimSuffix(line, "\n"))
			if parse == nil && strings.HasSuffix(line, "\n") && len(pids) < limit {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list processes of cgroup %s: %w", c.Path, err)
	}
	return pids, nil
}
