package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a walk: what path_resolution(7) allows, and a depth.
const (
	maxLinks = 40
	maxDepth = 1024
)

// A walk resolves a path inside a root one name at a time, by descriptors, and
// so never leaves it: symbolic links are read and their names walked, ".." goes
// back to the descriptor before, whatever others rename meanwhile.
type walk struct {
	root  int
	stack []step
	links int
	opts  walkOptions
}

type step struct {
	fd   int
	name string
}

type walkOptions struct {
	// missing makes a name that does not exist; without it that is an error.
	missing func(dir int, name string, last bool) error
	// plain refuses symbolic links.
	plain bool
}

// walkIn resolves p inside root. The caller closes the walk.
func walkIn(root *os.File, p string, o walkOptions) (*walk, error) {
	w := &walk{root: int(root.Fd()), opts: o}
	todo := names(p)
	for len(todo) > 0 {
		name := todo[0]
		target, err := w.enter(name, len(todo) == 1)
		if err != nil {
			w.close()
			return nil, err
		}
		todo = todo[1:]
		if target == "" {
			continue
		}
		if path.IsAbs(target) {
			w.close()
		}
		if todo = append(names(target), todo...); len(todo) > maxDepth {
			w.close()
			return nil, fmt.Errorf("%s: %w", target, unix.ENAMETOOLONG)
		}
	}
	return w, nil
}

// names splits p; "" and "." name nothing.
func names(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// enter goes one name further. For a symbolic link it stays and returns the
// link's target.
func (w *walk) enter(name string, last bool) (target string, err error) {
	switch {
	case name == ".":
		return "", nil
	case name == "..":
		w.leave()
		return "", nil
	case len(w.stack) >= maxDepth:
		return "", fmt.Errorf("%s: deeper than %d directories", w.path(), maxDepth)
	}
	fd, err := w.open(name, last)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path.Join(w.path(), name), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return "", fmt.Errorf("%s: %w", path.Join(w.path(), name), err)
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		defer unix.Close(fd)
		return w.follow(fd, name)
	case kind != unix.S_IFDIR && !last:
		unix.Close(fd)
		return "", fmt.Errorf("%s: %w", path.Join(w.path(), name), unix.ENOTDIR)
	}
	w.stack = append(w.stack, step{fd, name})
	return "", nil
}

// open opens name below the present directory, making it if it is missing and
// the walk makes what is missing. Twice, because another may have made it.
func (w *walk) open(name string, last bool) (int, error) {
	for try := 0; ; try++ {
		fd, err := again(func() (int, error) {
			return unix.Openat(w.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if !errors.Is(err, unix.ENOENT) || w.opts.missing == nil || try == 2 {
			return fd, err
		}
		if err := w.opts.missing(w.fd(), name, last); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
}

func (w *walk) follow(fd int, name string) (string, error) {
	at := path.Join(w.path(), name)
	if w.opts.plain {
		return "", fmt.Errorf("%s is a symbolic link, must be a directory", at)
	}
	if w.links++; w.links > maxLinks {
		return "", fmt.Errorf("%s: %w", at, unix.ELOOP)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("cannot read symbolic link %s: %w", at, err)
	}
	if n == 0 || n == len(buf) {
		return "", fmt.Errorf("symbolic link %s: %w", at, unix.ENAMETOOLONG)
	}
	return string(buf[:n]), nil
}

// fd is the descriptor (O_PATH) of what was reached; the walk keeps it.
func (w *walk) fd() int {
	if len(w.stack) == 0 {
		return w.root
	}
	return w.stack[len(w.stack)-1].fd
}

// path is where the walk is, seen from the root, without symbolic links.
func (w *walk) path() string {
	p := "/"
	for _, s := range w.stack {
		p = path.Join(p, s.name)
	}
	return p
}

func (w *walk) leave() {
	if n := len(w.stack); n > 0 {
		unix.Close(w.stack[n-1].fd)
		w.stack = w.stack[:n-1]
	}
}

// close goes back to the root.
func (w *walk) close() {
	for len(w.stack) > 0 {
		w.leave()
	}
}
