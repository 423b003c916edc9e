package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"golang.org/x/sys/unix"
)

// When daemon and keeper die at once, the containers run on, but nobody holds a
// descriptor of them any more. What is known is in the record: a process by its
// pid and start time. From there and from names all but a terminal and an open
// stdin can be opened again.

// ErrGone: the process is not there any more, or another has its pid.
var ErrGone = errors.New("the process is gone")

// open returns a pidfd of the process, ErrGone if it has ended. The start time is
// compared after the pidfd is open: from then on the pid stays its own.
func (p Started) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", p.PID, os.NewSyscallError("pidfd_open", err))
	}
	if start := StartTime(p.PID); start == 0 || start != p.PIDStart {
		unix.Close(fd)
		return nil, ErrGone
	}
	return os.NewFile(uintptr(fd), keeper.FDPid), nil
}

// Readopt gives the keeper a container that outlived both it and the daemon. Its
// output goes on into its log; what it had written meanwhile is in its pipes.
func (r *Runtime) Readopt(ctx context.Context, b Bundle, p Started) error {
	pidfd, err := p.open()
	if err != nil {
		return err
	}
	files := map[string]*os.File{keeper.FDPid: pidfd}
	if err := r.reopenStreams(ctx, b, files); err != nil {
		closeFiles(files)
		return fmt.Errorf("cannot take over container %s: %w", b.ID, err)
	}
	item := keeper.Item{ID: b.ID, Kind: keeper.KindContainer, PID: p.PID, Log: &keeper.Log{MaxLine: r.MaxLogLine}}
	return r.Keeper.Adopt(ctx, item, files)
}

func (r *Runtime) reopenStreams(ctx context.Context, b Bundle, files map[string]*os.File) error {
	for _, name := range []string{keeper.FDStdout, keeper.FDStderr} {
		path := filepath.Join(r.containerState(b.ID), name)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		files[name] = os.NewFile(uintptr(fd), name)
		// If its last writer is gone already, poll(2) tells only one who saw a
		// writer go since it opened.
		writer, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		unix.Close(writer)
	}
	err := openStashes(r.containerState(b.ID), files)
	if err == nil && b.LogPath != "" {
		files[keeper.FDLog], err = r.openLog(ctx, b.LogPath)
	}
	return err
}

// ReadoptInit does the same for a pod's init, which is alone in its group. It
// does nothing if there is none.
func (r *Runtime) ReadoptInit(ctx context.Context, podID, cgroup string) error {
	group, err := r.cgroupOf(InitID(podID), cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pids, err := group.Procs()
	if err != nil || len(pids) == 0 {
		return err
	}
	p := Started{PID: pids[0], PIDStart: StartTime(pids[0])}
	pidfd, err := p.open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.Keeper.Adopt(ctx, keeper.Item{ID: InitID(podID), Kind: keeper.KindContainer, PID: p.PID}, map[string]*os.File{keeper.FDPid: pidfd})
}

// PodFiles opens what a running container shares with its pod: ipc, uts and user
// namespaces and the shared memory. The files are the caller's.
func (r *Runtime) PodFiles(p Started) (map[string]*os.File, error) {
	pidfd, err := p.open()
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	files := map[string]*os.File{}
	err = podFiles(p.PID, files)
	if err == nil && StartTime(p.PID) != p.PIDStart { // it ended while we looked
		err = ErrGone
	}
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

func podFiles(pid int, files map[string]*os.File) (err error) {
	proc := "/proc/" + strconv.Itoa(pid)
	for _, name := range []string{"ipc", "uts", "user"} {
		if files[name], err = os.Open(proc + "/ns/" + name); err != nil {
			delete(files, name)
			return err
		}
	}
	mounts, err := os.Open(proc + "/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	ns, err := os.Open(proc + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	shm, err := mount.ShmOf(mounts, ns)
	if err != nil { // then later containers do not share it with the earlier ones
		slog.Warn("a pod's shared memory is made anew", "process", pid, "why", err)
		return nil
	}
	files["shm"] = shm
	return nil
}
