package oci

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/podinit"
	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

// InitID names PID 1 of a pod with a shared PID namespace.
func InitID(podID string) string { return podID + "-init" }

// startInit makes a pod's PID namespace: with a first process that reaps, whose
// root is an empty directory and which holds nothing (oci/podinit). It does
// nothing if there is one.
func (r *Runtime) startInit(ctx context.Context, podID, cgroup string) error {
	_, err, _ := r.inits.Do(podID, func() (any, error) {
		if f, err := r.Keeper.FD(InitID(podID), keeper.FDPid); err == nil {
			return nil, f.Close()
		}
		return nil, r.newInit(ctx, podID, cgroup)
	})
	return err
}

func (r *Runtime) newInit(ctx context.Context, podID, cgroup string) error {
	id := InitID(podID)
	group, err := r.Cgroups.Create(ctx, cgroup, nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.groups[id] = group
	r.mu.Unlock()
	fds := map[string]*os.File{}
	defer func() { closeFiles(fds) }()
	in := program.InitInput{ID: podID, Arch: runtime.GOARCH, LastCap: lastCap()}
	if in.CgroupV2, in.TasksFDs, err = joinGroup(group, fds); err != nil {
		return err
	}
	for _, ns := range []string{"net", "ipc", "uts", "user"} {
		if f, err := r.Keeper.FD(podID, ns); err == nil { // else it is the node's
			fds["ns."+ns] = f
			in.Namespaces = append(in.Namespaces, "ns."+ns)
		}
	}
	if err := initFiles(fds); err != nil {
		return err
	}
	p, err := program.Init(in)
	if err != nil {
		return err
	}
	_, err = r.Keeper.Spawn(ctx, keeper.Spawn{Item: keeper.Item{ID: id, Kind: keeper.KindContainer}, Program: p, FDs: fds, Timeout: startBound})
	return err
}

func initFiles(fds map[string]*os.File) (err error) {
	if fds["rootfs"], err = mount.EmptyReadOnlyDir(); err != nil {
		return err
	}
	if fds["exe"], err = initImage(); err != nil {
		return err
	}
	for _, name := range []string{keeper.FDStdin, keeper.FDStdout, keeper.FDStderr} {
		if fds[name], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	return nil
}

// initFile is the init's image in sealed memory, one for all pods.
var initFile = sync.OnceValues(func() (*os.File, error) {
	fd, err := unix.MemfdCreate("cri-box-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make init: %w", os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "init")
	if _, err := f.Write(podinit.Image()); err != nil {
		return nil, fmt.Errorf("cannot make init: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("cannot make init: %w", err)
	}
	return f, nil
})

func initImage() (*os.File, error) {
	f, err := initFile()
	if err != nil {
		return nil, err
	}
	return dup(f)
}

// pidfdGetPIDNamespace asks a pidfd for its process's pid namespace (Linux 6.11,
// ioctl_pidfd(2)).
const pidfdGetPIDNamespace = 0xff05

// pidNamespaceOf opens the pid namespace of a process.
func pidNamespaceOf(pidfd *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(pidfd.Fd()), pidfdGetPIDNamespace)
	if err != nil {
		return nil, fmt.Errorf("cannot open pid namespace: %w", err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "pid"), nil
}
