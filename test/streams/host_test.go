package streams_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
)

// processes counts those of the container and of commands in it.
func processes(t testing.TB, c *harness.Container) int {
	t.Helper()
	dir := c.Group()
	n := 0
	for _, d := range append([]string{""}, groupsIn(t, dir)...) {
		text, err := os.ReadFile(filepath.Join(dir, d, "cgroup.procs"))
		if err == nil {
			n += len(strings.Fields(string(text)))
		}
	}
	return n
}

func groupsIn(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// blocked tells whether a connection's send buffer has been full for a while: the
// kernel has had no acknowledgement for what could be sent.
func blocked(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	full := false
	raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, 500) // writable within half a second: still moving
		full = err == nil && n == 0
	})
	return full
}

// threads and descriptors of a process.
func threads(t testing.TB, pid int) int     { return count(t, pid, "task") }
func descriptors(t testing.TB, pid int) int { return count(t, pid, "fd") }

func count(t testing.TB, pid int, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), dir))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
