package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Call is one that waits for its answer.
type Call struct {
	TID  int // the thread
	Nr   uint32
	Args [6]uint64

	fd int
	id uint64
}

// Name is the call's.
func (c *Call) Name() string {
	if name := Calls[c.Nr]; name != "" {
		return name
	}
	return Memory[c.Nr]
}

// Paths are the names of files that it is about, as far as there are any: absolute,
// or what the kernel calls a pipe, a socket and the like.
func (c *Call) Paths() []string {
	a := c.Args
	switch c.Nr {
	case unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_MKNODAT, unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR:
		return []string{c.Path(a[0], a[1])}
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_MOVE_MOUNT:
		return []string{c.Path(a[0], a[1]), c.Path(a[2], a[3])}
	case unix.SYS_SYMLINKAT:
		return []string{c.Path(a[1], a[2])}
	case unix.SYS_MOUNT:
		return []string{c.Text(a[1])}
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS:
		return []string{c.Open(a[0])}
	case unix.SYS_COPY_FILE_RANGE:
		return []string{c.Open(a[2])}
	}
	return nil
}

// Open is the path of an open file.
func (c *Call) Open(fd uint64) string {
	link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.TID, int32(fd)))
	return link
}

// Path is that of a name in a directory.
func (c *Call) Path(dirfd, name uint64) string {
	text := c.Text(name)
	if filepath.IsAbs(text) {
		return filepath.Clean(text)
	}
	dir := fmt.Sprintf("/proc/%d/fd/%d", c.TID, int32(dirfd))
	if int32(dirfd) == unix.AT_FDCWD {
		dir = fmt.Sprintf("/proc/%d/cwd", c.TID)
	}
	link, _ := os.Readlink(dir)
	return filepath.Join(link, text)
}

// Text is a string in the program's memory; "" if there is none.
func (c *Call) Text(at uint64) string {
	b := c.Memory(at, 4096)
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return string(b[:end])
	}
	return ""
}

// Memory is what stands in the program's memory, less at the end of a mapping.
func (c *Call) Memory(at uint64, n int) []byte {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.TID))
	if err != nil {
		return nil
	}
	defer mem.Close()
	b := make([]byte, n)
	n, _ = mem.ReadAt(b, int64(at))
	return b[:n]
}

// Position is an open file's offset (proc(5), fdinfo).
func (c *Call) Position(fd uint64) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", c.TID, fd))
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "pos:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
