package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenerFD is the descriptor of the listening socket in a keeper process.
const ListenerFD = 3

// ownBinary names a process's binary for its children: the keeper's is the
// read-only clone, so that an upgrade on disk does not mix versions.
const ownBinary = "/proc/self/exe"

// launch starts a keeper from a read-only clone of the binary. The socket
// listens before it returns.
func launch(cfg Config) error {
	path, err := cfg.Binary()
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	exe, err := cloneBinary(path)
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	defer exe.Close()
	fd, err := Listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	log, err := os.OpenFile(cfg.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	defer null.Close()
	// A number above those that StartProcess fills in the child.
	high, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", os.NewSyscallError("dup", err))
	}
	defer unix.Close(high)
	sys := &syscall.SysProcAttr{Setsid: true}
	if cfg.Group != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(cfg.Group.Fd())
	}
	proc, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", high), []string{"cri-box", RoleKeeper, cfg.Socket, cfg.Build}, &os.ProcAttr{
		Dir: "/", Env: ownEnv(), Files: []*os.File{null, null, log, listener},
		Sys: sys,
	})
	if err != nil {
		return fmt.Errorf("cannot start the keeper: %w", err)
	}
	go proc.Wait() // it usually outlives us; if not, no zombie stays
	return nil
}

// ownEnv is the environment of keeper and spawners: how often they collect garbage,
// where somebody set that, and no signals to preempt, since nothing there runs for
// long without a call: Go's monitor sends one to whoever runs first after a pause, and
// that is who makes the process that somebody waits for.
func ownEnv() []string {
	env := []string{"GODEBUG=asyncpreemptoff=1"}
	for _, name := range []string{"GOGC", without} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// cloneBinary opens the binary in a way that nobody, not even the host's root
// inside a container, can write to it through /proc/PID/exe (CVE-2019-5736): an
// overlay of two lower layers and no upper one, which is never attached. Where
// overlay fails, a sealed copy in memory.
func cloneBinary(path string) (*os.File, error) {
	f, err := overlayBinary(path)
	if err == nil {
		return f, nil
	}
	g, copyErr := copyBinary(path)
	if copyErr != nil {
		return nil, errors.Join(err, copyErr)
	}
	return g, nil
}

func overlayBinary(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	// A second, empty lower layer: with one alone overlay would want an upper one.
	lower, err := emptyDir()
	if err != nil {
		return nil, err
	}
	defer lower.Close()
	bin, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(bin)
	layers := fmt.Sprintf("/proc/self/fd/%d:/proc/self/fd/%d", bin, lower.Fd())
	if err := unix.FsconfigSetString(fs, "lowerdir", layers); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// emptyDir is the root of a tmpfs of its own, never attached.
func emptyDir() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(mnt), "tmpfs"), nil
}

func copyBinary(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("cri-box", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := f.ReadFrom(src); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}
