package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// An fsContext is a file system being configured, see fsopen(2). The first error
// sticks and is returned by mount.
type fsContext struct {
	fd   int
	kind string
	err  error
}

func newContext(kind string) *fsContext {
	fd, err := again(func() (int, error) { return unix.Fsopen(kind, unix.FSOPEN_CLOEXEC) })
	if err != nil {
		return &fsContext{fd: -1, kind: kind, err: fmt.Errorf("cannot open file system type %s: %w", kind, err)}
	}
	return &fsContext{fd: fd, kind: kind}
}

func (c *fsContext) set(key, value string) {
	c.do(key+"="+value, func() error { return unix.FsconfigSetString(c.fd, key, value) })
}

func (c *fsContext) setFlag(key string) {
	c.do(key, func() error { return unix.FsconfigSetFlag(c.fd, key) })
}

// label makes all files of the file system have an SELinux label.
func (c *fsContext) label(label string) {
	if label != "" {
		c.set("context", label)
	}
}

func (c *fsContext) setFD(key string, fd int) {
	c.do(key, func() error { return unix.FsconfigSetFd(c.fd, key, fd) })
}

func (c *fsContext) do(what string, call func() error) {
	if c.err != nil {
		return
	}
	if _, err := again(func() (int, error) { return 0, call() }); err != nil {
		c.err = fmt.Errorf("cannot configure %s with %s: %w%s", c.kind, what, err, c.log())
	}
}

// mount makes the file system and its detached mount with the MOUNT_ATTR flags,
// and closes the context.
func (c *fsContext) mount(attrs int) (*os.File, error) {
	defer c.close()
	if c.err != nil {
		return nil, c.err
	}
	if _, err := again(func() (int, error) { return 0, unix.FsconfigCreate(c.fd) }); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w%s", c.kind, err, c.log())
	}
	fd, err := again(func() (int, error) { return unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attrs) })
	if err != nil {
		return nil, fmt.Errorf("cannot mount %s: %w%s", c.kind, err, c.log())
	}
	return os.NewFile(uintptr(fd), c.kind), nil
}

func (c *fsContext) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// log returns what the kernel says about the last failure. Each read gives one
// message, "e overlay: …" for an error; the kernel keeps at most eight.
func (c *fsContext) log() string {
	var all []string
	buf := make([]byte, 512)
	for range 8 {
		n, err := unix.Read(c.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		all = append(all, strings.TrimSpace(string(buf[:n])))
	}
	if len(all) == 0 {
		return ""
	}
	return " (kernel: " + strings.Join(all, "; ") + ")"
}
