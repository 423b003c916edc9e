package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// programVar, in the environment, makes a test binary begin to be supervised and
// execute a program: where the supervisor listens, and the program.
const programVar = "CRIBOX_SUPERVISED"

// Main does that and does not return, if it is asked to. TestMain calls it first.
func Main() {
	v, ok := os.LookupEnv(programVar)
	if !ok {
		return
	}
	os.Unsetenv(programVar)
	if err := become(v); err != nil {
		fmt.Fprintln(os.Stderr, "cannot be supervised:", err)
		os.Exit(1)
	}
}

func become(v string) error {
	runtime.LockOSThread() // the filter is this thread's, and execve(2) keeps it
	socket, program, _ := strings.Cut(v, " ")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	if err := beginAndWait(fd); err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
}

// A Supervisor is asked by each serve that its Program starts. What serve starts
// itself goes on unasked.
type Supervisor struct {
	// Program is the path to start instead of the product.
	Program string

	listener int
	mu       sync.Mutex
	decide   func(*Call) Answer
}

// New makes a supervisor for a build of the product. It lives as long as the test
// process: so does the filter of what serve has started.
func New(t testing.TB, product string) *Supervisor {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	if len(socket) > 100 { // sun_path
		short, err := os.MkdirTemp("", "sv")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(short) })
		socket = filepath.Join(short, "s")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 4))
	}
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{Program: filepath.Join(dir, "serve"), listener: fd}
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = serve ] || exec %s \"$@\"\n%s='%s %s' exec %s \"$@\"\n", product, programVar, socket, product, self)
	if err := WriteScript(s.Program, script); err != nil {
		t.Fatal(err)
	}
	go s.accept()
	t.Cleanup(func() { s.Decide(nil); unix.Shutdown(fd, unix.SHUT_RDWR); unix.Close(fd) })
	return s
}

// Decide has f answer from now on; nil lets everything go on. f is called by many
// at once, and may wait.
func (s *Supervisor) Decide(f func(*Call) Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decide = f
}

func (s *Supervisor) accept() {
	for {
		conn, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		cred, err := unix.GetsockoptUcred(conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			var fd int
			if fd, err = Take(conn); err == nil {
				go s.supervise(fd, int(cred.Pid))
				unix.Write(conn, []byte{0}) // go on
			}
		}
		unix.Close(conn)
	}
}

func (s *Supervisor) supervise(fd, pid int) {
	defer unix.Close(fd)
	for {
		c, err := Next(fd)
		if c == nil || err != nil {
			return
		}
		s.mu.Lock()
		decide := s.decide
		s.mu.Unlock()
		if decide == nil || !c.of(pid) {
			c.Answer(GoOn)
			continue
		}
		go func() { c.Answer(decide(c)) }()
	}
}

// of says whether a thread of that process makes the call.
func (c *Call) of(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, c.TID))
	return err == nil
}

// beginAndWait begins on this thread, which goes on when the supervisor is ready.
func beginAndWait(conn int) error {
	all := map[uint32]string{}
	for _, calls := range []map[uint32]string{Calls, Memory} {
		for nr, name := range calls {
			all[nr] = name
		}
	}
	if err := Begin(conn, false, all); err != nil {
		return err
	}
	_, err := unix.Read(conn, make([]byte, 1))
	return err
}
