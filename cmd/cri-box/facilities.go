package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cri-box/cri-box/oci/mount"
	"golang.org/x/sys/unix"
)

const newerKernel = "use a kernel that has it; Linux 6.1 and later have all of these"

// A facility is something that not every kernel has: how it is tried, what is not
// possible or done in another way without it.
type facility struct {
	name string
	// needed: without it no pod runs. All others are replaced.
	needed      bool
	try         func() error
	consequence string
}

var errMissing = errors.New("it is not there")

func has(there bool) error {
	if there {
		return nil
	}
	return errMissing
}

// facilities are tried, never concluded from the kernel's version: distributions
// take newer ones into older kernels, and sandboxes take some away.
func facilities() []facility {
	f := mount.Detect()
	return []facility{
		{"pidfd_open", true, func() error { return closing(unix.PidfdOpen(os.Getpid(), 0)) }, "no container can be made"},
		{"openat2 with RESOLVE_IN_ROOT", true, func() error {
			return closing(unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}))
		}, "no container can be made"},
		{"overlay mounts by fsopen", true, func() error { return closing(unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)) }, "no container can be made"},
		{"detached mounts by open_tree", true, func() error { return closing(unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLOEXEC)) }, "no container can be made"},
		{"mount_setattr", true, func() error { return has(f.SetAttr) }, "no volume can be read-only"},
		{"seccomp filters", true, func() error {
			return has(strings.Contains(readText("/proc/sys/kernel/seccomp/actions_avail"), "errno"))
		}, "no container with a seccomp profile can start, not even with RuntimeDefault"},
		{"clone3 with CLONE_INTO_CGROUP", true, cloneIntoCgroup, "no container can be born into its control group"},
		{"cgroup.kill", false, cgroupKill, "a container's processes are frozen and killed one by one"},
		{"signals to process groups by pidfd", false, signalGroup, "the process group of a command whose client is gone is signalled by its number"},
		{"overlay layers by descriptor (lowerdir+): " + string(f.Layers), false, func() error { return has(f.Layers != mount.LayersByMount) },
			"an image is mounted in a mount namespace of its own first, which takes a little longer"},
		{"volatile overlay mounts", false, func() error { return has(f.Volatile) }, "a container's end waits until what it wrote is on the disk"},
		{"clones of detached mounts", false, func() error { return has(f.CloneDetached) },
			"a pod's /dev/shm, and an image of which a part is mounted, are attached in a mount namespace of their own and cloned there"},
		{"procfs of another PID namespace (pidns)", false, func() error { return has(f.ProcOf) },
			"in a shared PID namespace /proc comes from the pod's first process; if daemon and keeper are killed at once, no container can be added to such a pod"},
		{"exit codes by pidfd (PIDFD_GET_INFO)", false, exitByPidfd,
			"if the keeper is killed, its containers end with the exit code 255 and the reason Unknown, unless the next keeper looks before they are reaped"},
	}
}

func (f facility) look() finding {
	err := f.try()
	if f.needed {
		return check(err == nil, f.name, bad, fmt.Sprintf("%s: %v", f.consequence, err), newerKernel+"; run the doctor as root")
	}
	return check(err == nil, f.name, note, f.consequence, "none needed")
}

// cloneIntoCgroup asks for a child in a control group that is none: a kernel that
// knows the flag finds that out (EBADF), another refuses the flag.
func cloneIntoCgroup() error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
	}{flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(root)}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	switch {
	case errno == unix.EBADF:
		return nil
	case errno == 0 && pid == 0: // a child after all: it must not go on as a second doctor
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return errno
}

// cgroupKill looks at any group of the v2 hierarchy: its root has no such file. On a
// machine without any group there is nothing to say.
func cgroupKill() error {
	groups := 0
	for _, root := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/unified/*/"} {
		all, err := filepath.Glob(root + "cgroup.events")
		if err != nil {
			return err
		}
		if kill, err := filepath.Glob(root + "cgroup.kill"); err == nil && len(kill) > 0 {
			return nil
		}
		groups += len(all)
	}
	return has(groups == 0)
}

// exitByPidfd asks for what the kernel keeps of a process that has been reaped.
func exitByPidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info)
}

// signalGroup sends its own group nothing (PIDFD_SIGNAL_PROCESS_GROUP, linux/pidfd.h).
func signalGroup() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const processGroup = 1 << 2
	if err := unix.PidfdSendSignal(fd, 0, nil, processGroup); !errors.Is(err, unix.ESRCH) { // it leads none
		return err
	}
	return nil
}

// errNoRoot: the daemon cannot work as who it was started.
type errNoRoot struct{ who string }

func (e errNoRoot) Error() string {
	return "cannot serve as " + e.who + `: the machine's own root is needed.
What does not work without: pods and containers (mounts, control groups, namespaces of
the node), images (their files have owners), the pod network.
What works: cri-box config, version, completion and help; doctor, which shows what is
missing; and every command that asks a running daemon, for whom may open its socket.
Use sudo, or the systemd unit`
}

// needRoot refuses early and in one place what would fail in many.
func needRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return errNoRoot{fmt.Sprintf("user %d", uid)}
	}
	if !initialUsers(readText("/proc/self/uid_map")) {
		return errNoRoot{"root of a user namespace"}
	}
	return nil
}

// initialUsers says whether a uid_map is that of the machine's own user namespace
// (user_namespaces(7)).
func initialUsers(uidMap string) bool {
	return strings.Join(strings.Fields(uidMap), " ") == "0 0 4294967295"
}
