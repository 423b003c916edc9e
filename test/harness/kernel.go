package harness

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is the directory of the running container's control group on cgroup v2.
func (c *Container) Group() string {
	c.T.Helper()
	_, path, ok := strings.Cut("\n"+readProcFile(c.PID(), "cgroup"), "\n0::")
	path, _, _ = strings.Cut(path, "\n")
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} { // hybrid, v2 alone
		dir := filepath.Join(root, path)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); ok && err == nil {
			return dir
		}
	}
	c.T.Fatal("the container has no group on cgroup v2")
	return ""
}

// BySystemd says whether serve has systemd make its control groups, as it does by
// itself where that is the first process.
func BySystemd() bool { return readProcFile(1, "comm") == "systemd\n" }

// KeepsExits says whether this kernel tells the exit code of a process that another
// has reaped (PIDFD_GET_INFO, Linux 6.15).
func KeepsExits() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.IoctlPidfdInfo(fd, &unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}) == nil
}
