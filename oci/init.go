package oci

import (
	"context"
	"errors"
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
	keep, err := procNamespace(&in, fds)
	if err != nil {
		return err
	}
	p, err := program.Init(in)
	if err != nil {
		closeFiles(keep)
		return err
	}
	pid, err := r.Keeper.Spawn(ctx, keeper.Spawn{Item: keeper.Item{ID: id, Kind: keeper.KindContainer}, Program: p, FDs: fds, Keep: keep, Timeout: startBound})
	if err != nil {
		// A keeper that died may have made it: nobody would hold it, and the next
		// one could not be made beside it.
		return errors.Join(err, r.Delete(context.WithoutCancel(ctx), id, cgroup))
	}
	r.Cgroups.Adopt(cgroup, pid)
	return nil
}

// fdProc is, in an init's custody, the mount namespace with its procfs.
const fdProc = "proc"

// procNamespace has the init leave a procfs for the pod's containers, where the
// kernel makes none from outside the PID namespace.
func procNamespace(in *program.InitInput, fds map[string]*os.File) (map[string]*os.File, error) {
	if mount.Detect().ProcOf {
		return nil, nil
	}
	ns, err := mount.EmptyNamespace()
	if err != nil {
		return nil, err
	}
	in.ProcNamespace, fds["ns.proc"] = "ns.proc", ns
	kept, err := dup(ns)
	if err != nil {
		return nil, err
	}
	return map[string]*os.File{fdProc: kept}, nil
}

// donatedProc is a procfs of the PID namespace that a container joins, for kernels
// that make none from outside: a clone of what the target has, or of what the
// pod's init left.
func (m *maker) donatedProc() (*os.File, error) {
	if m.bundle.Target == "" {
		kept, err := m.Keeper.FD(InitID(m.bundle.PodID), fdProc)
		if err != nil {
			return nil, fmt.Errorf("cannot mount proc of the pod's PID namespace, which this kernel makes only at the pod's start: %w", err)
		}
		defer kept.Close()
		return mount.Clone(kept, false)
	}
	pidfd, err := m.Keeper.FD(m.bundle.Target, keeper.FDPid)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	pid, err := pidOf(pidfd)
	if err != nil {
		return nil, err
	}
	proc, err := mount.ProcOf(pid)
	if err != nil {
		return nil, err
	}
	return proc, stillAlive(pidfd, proc)
}

// stillAlive closes f unless the process has not been reaped: only then was its pid
// its own.
func stillAlive(pidfd, f *os.File) error {
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		f.Close()
		return fmt.Errorf("the process has ended: %w", os.NewSyscallError("pidfd_send_signal", err))
	}
	return nil
}

func initFiles(fds map[string]*os.File) (err error) {
	if fds["rootfs"], err = mount.EmptyReadOnlyDir(); err != nil {
		return err
	}
	if fds["ns.mnt"], err = mount.Nowhere(); err != nil {
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

// pidNamespaceOf opens the pid namespace of a process.
func pidNamespaceOf(pidfd *os.File) (*os.File, error) {
	pid, err := pidOf(pidfd)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot open pid namespace: %w", err)
	}
	return f, stillAlive(pidfd, f)
}
