package keeper

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a new one: its master, and the path and an open descriptor of its other side.
func (f *fixture) terminal() (master, slave *os.File, path string) {
	f.t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	path = fmt.Sprintf("/dev/pts/%d", n)
	slave, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "master"), slave, path
}

// TestTerminalOpenedAgain: a container that closes its terminal, and opens it later
// by its name, is logged: at once, after an upgrade of the keeper, and to its end.
func TestTerminalOpenedAgain(t *testing.T) {
	f := start(t)
	gate := f.gate()
	master, slave, path := f.terminal()
	look, err := dup(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(look)
	log, err := os.OpenFile(f.logPath("c"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	script := "echo one; exec <%[1]s >/dev/null 2>&1; read x; echo two > %[2]s; read x; echo three > %[2]s; read x; exit 3"
	_, err = f.Spawn(context.Background(), Spawn{
		Item: Item{ID: "c", Kind: KindContainer, Log: &Log{MaxLine: 100}}, Program: command("/bin/sh", "-c", fmt.Sprintf(script, gate.Name(), path)),
		FDs:  map[string]*os.File{"stdin": slave, "stdout": slave, "stderr": slave},
		Keep: map[string]*os.File{FDTTY: master, FDLog: log},
	})
	if err != nil {
		t.Fatal(err)
	}
	slave.Close()
	says := func(lines ...string) {
		t.Helper()
		f.until(fmt.Sprint(lines), func() bool { return slices.Equal(f.logLines("c"), lines) })
		f.until("the closing", func() bool { return polled(uintptr(look), unix.POLLHUP) })
	}
	says("stdout F one\r")
	gate.WriteString("go\n")
	says("stdout F one\r", "stdout F two\r")
	f.redial("other", os.Executable)
	f.await("other")
	gate.WriteString("go\n")
	says("stdout F one\r", "stdout F two\r", "stdout F three\r")
	gate.WriteString("go\n")
	if e := f.wait("c"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	f.tapEnds("c", "attached after the end")
}
