package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/cri-box/cri-box/oci/mount"
	"golang.org/x/sys/unix"
)

// makeStreams makes the container's standard streams: FIFOs that it holds open
// for reading and writing, so that it gets no SIGPIPE and no error whoever reads
// or does not; or a terminal of its own devpts.
func (m *maker) makeStreams(context.Context) error {
	if err := os.MkdirAll(m.containerState(m.bundle.ID), 0o711); err != nil {
		return fmt.Errorf("cannot make streams: %w", err)
	}
	if m.spec.Process.Terminal {
		return m.makeTerminal()
	}
	for _, name := range []string{keeper.FDStdout, keeper.FDStderr} {
		inside, outside, err := m.fifo(name)
		if err != nil {
			return fmt.Errorf("cannot make %s: %w", name, err)
		}
		m.give(name, inside)
		m.out.keep[name] = outside
	}
	if err := openStashes(m.containerState(m.bundle.ID), m.out.keep); err != nil {
		return fmt.Errorf("cannot make streams: %w", err)
	}
	return m.makeStdin()
}

// openStashes adds the files that output passes through on its way to the log, by
// name, which are made if they are not there.
func openStashes(dir string, files map[string]*os.File) error {
	for _, name := range []string{keeper.FDStashOut, keeper.FDStashErr} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		files[name] = f
	}
	return nil
}

// fifo makes a named pipe: by its name a later daemon and keeper can find it
// should both die.
func (m *maker) fifo(name string) (inside, outside *os.File, err error) {
	path := filepath.Join(m.containerState(m.bundle.ID), name)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// Its owner is the container's user, who may open /dev/stdout anew.
	uid, gid := hostUser(m.bundle.IDs, m.spec.Process.User)
	if err := os.Chown(path, uid, gid); err != nil {
		return nil, nil, err
	}
	in, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	inside = os.NewFile(uintptr(in), name)
	out, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		inside.Close()
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return inside, os.NewFile(uintptr(out), name), nil
}

// makeStdin is a pipe whose write end is kept, or nothing. It is not open for
// writing inside: the container would never see its end.
func (m *maker) makeStdin() error {
	if !m.bundle.Stdin {
		null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("cannot make stdin: %w", err)
		}
		m.give(keeper.FDStdin, null)
		return nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot make stdin: %w", os.NewSyscallError("pipe2", err))
	}
	m.give(keeper.FDStdin, os.NewFile(uintptr(p[0]), keeper.FDStdin))
	m.out.keep[keeper.FDStdin] = os.NewFile(uintptr(p[1]), keeper.FDStdin)
	uid, gid := hostUser(m.bundle.IDs, m.spec.Process.User)
	return unix.Fchown(p[0], uid, gid)
}

func (m *maker) makeTerminal() error {
	var devpts *os.File
	for i, mt := range m.mounts {
		if mt.Type == "devpts" {
			devpts = m.out.fds[fmt.Sprintf("mount.%d", i)]
		}
	}
	if devpts == nil {
		return errors.New("cannot make a terminal: /dev/pts is replaced by a volume")
	}
	master, slave, err := mount.OpenPTY(devpts)
	if err != nil {
		return err
	}
	m.give("tty", slave)
	m.out.keep[keeper.FDTTY] = master
	uid, _ := hostUser(m.bundle.IDs, m.spec.Process.User)
	if err := unix.Fchown(int(slave.Fd()), uid, -1); err != nil {
		return fmt.Errorf("cannot give terminal to user: %w", err)
	}
	if s := m.spec.Process.ConsoleSize; s != nil {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.Height), Col: uint16(s.Width)}); err != nil {
			return fmt.Errorf("cannot size terminal: %w", err)
		}
	}
	return nil
}
