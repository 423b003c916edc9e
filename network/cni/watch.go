package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// linkLimit is how many symbolic links are followed on the way to a directory, as
// the kernel has it (path_resolution(7)).
const linkLimit = 40

const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE |
	unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watch tells when something on the way to directories, or in them, changes:
// also when they do not exist yet, are removed, made again, or are behind
// symbolic links, as are the files in them.
type watch struct {
	dirs []string
	file *os.File // the inotify instance
	fd   int

	mu    sync.Mutex
	names map[int]map[string]bool // watch descriptor to names that matter; nil: all
}

func newWatch(dirs []string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch directories: %w", err)
	}
	w := &watch{dirs: dirs, file: os.NewFile(uintptr(fd), "inotify"), fd: fd, names: map[int]map[string]bool{}}
	w.arm()
	return w, nil
}

func (w *watch) close() { w.file.Close() }

// arm watches what there is now. It is to be called again after each change, and
// before the directories are read.
func (w *watch) arm() {
	want := map[string]map[string]bool{}
	for _, dir := range w.dirs {
		links := linkLimit
		way(dir, want, &links)
		want[dir] = nil
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries[:min(len(entries), filesLimit)] {
			if entry.Type()&os.ModeSymlink != 0 {
				way(filepath.Join(dir, entry.Name()), want, &links)
			}
		}
		for _, dir := range subdirs(dir, entries) {
			want[dir] = nil
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[int]map[string]bool{}
	// Parents come first: what is made in one while this runs is then told of.
	for _, path := range slices.Sorted(maps.Keys(want)) {
		names := want[path]
		wd, err := unix.InotifyAddWatch(w.fd, path, watchMask)
		if err != nil {
			continue // it does not exist: its parent tells when it does
		}
		if have, twice := next[wd]; twice && (have == nil || names == nil) {
			names = nil
		} else if twice {
			for name := range have {
				names[name] = true
			}
		}
		next[wd] = names
	}
	for wd := range w.names {
		if _, keep := next[wd]; !keep {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // gone by itself when the directory is
		}
	}
	w.names = next
}

// subdirs are those that may hold the plugins of a network (CNI 1.1).
func subdirs(dir string, entries []os.DirEntry) []string {
	var out []string
	for _, entry := range entries[:min(len(entries), filesLimit)] {
		if entry.IsDir() {
			out = append(out, filepath.Join(dir, entry.Name()))
		}
	}
	return out
}

// way adds every directory on the way to path, each with the name that leads on;
// where a name is a symbolic link, also the way to its target.
func way(path string, want map[string]map[string]bool, links *int) {
	at := "/"
	for _, name := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		if names, known := want[at]; !known || names != nil {
			if names == nil {
				names = map[string]bool{}
				want[at] = names
			}
			names[name] = true
		}
		next := filepath.Join(at, name)
		if target, err := os.Readlink(next); err == nil && *links > 0 {
			*links--
			if !filepath.IsAbs(target) {
				target = filepath.Join(at, target)
			}
			way(target, want, links)
		}
		at = next
	}
}

// run calls changed after each change that matters, until close.
func (w *watch) run(changed func()) {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if w.matters(buf[:n]) {
			changed()
		}
	}
}

// matters says whether one of the events is about a name that is watched for.
func (w *watch) matters(events []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int(int32(binary.NativeEndian.Uint32(events)))
		mask := binary.NativeEndian.Uint32(events[4:])
		size := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[unix.SizeofInotifyEvent:]
		name := strings.TrimRight(string(events[:size]), "\x00")
		events = events[size:]
		names, known := w.names[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			return true
		case known && (names == nil || name == "" || names[name]) && mask&unix.IN_IGNORED == 0:
			return true
		}
	}
	return false
}
