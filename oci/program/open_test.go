package program

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenTrees asks for trees and logs, present, missing and forbidden.
func TestOpenTrees(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"tree", "logs"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tree/file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "logs/out")); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	logs := filepath.Join(dir, "logs")
	requests := []TreeRequest{
		{Path: filepath.Join(dir, "tree")},
		{Path: filepath.Join(dir, "missing")},
		{Path: filepath.Join(dir, "tree/file")},
		{Path: filepath.Join(dir, "tree/file/below")},
		{Path: filepath.Join(dir, "new/deep"), Create: true, Recursive: true},
		{Dir: logs, Path: "ctr/0.log"},
		{Dir: logs, Path: "1.log"},
		{Dir: logs, Path: "out/passwd"},
		{Dir: logs, Path: "../../2.log"},
		{Dir: filepath.Join(dir, "nodir"), Path: "0.log"},
	}
	want := []syscall.Errno{0, unix.ENOENT, 0, unix.ENOTDIR, 0, 0, 0, unix.ELOOP, 0, unix.ENOENT}
	s := newScene(t)
	files := s.open(must[*Program](t)(OpenTrees(hostArch, requests)), want)

	fd := must[int](t)(unix.Openat(int(files[0].Fd()), "file", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	unix.Close(fd)
	for i, path := range map[int]string{5: "ctr/0.log", 6: "1.log", 8: "2.log"} {
		fmt.Fprintf(files[i], "line %d\n", i)
		content := must[[]byte](t)(os.ReadFile(filepath.Join(logs, path)))
		equal(t, path, string(content), fmt.Sprintf("line %d\n", i))
		equal(t, path, must[os.FileInfo](t)(os.Stat(filepath.Join(logs, path))).Mode(), os.FileMode(0o640))
		flags := must[int](t)(unix.FcntlInt(files[i].Fd(), unix.F_GETFL, 0))
		if flags&unix.O_APPEND == 0 {
			t.Errorf("%s is not open for appending", path)
		}
	}
	equal(t, "parents of a log", must[os.FileInfo](t)(os.Stat(filepath.Join(logs, "ctr"))).Mode(), os.ModeDir|0o755)
	equal(t, "a made source", must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "new/deep"))).Mode(), os.ModeDir|0o755)
	if strings.Contains(string(must[[]byte](t)(os.ReadFile("/etc/passwd"))), "line ") {
		t.Error("a link led out of the log directory")
	}
}

// open runs an opener and checks its answers; the files are closed with the test.
func (s *scene) open(p *Program, want []syscall.Errno) []*os.File {
	s.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	s.give("reply", pair[0], err)
	defer unix.Close(pair[1])
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(pair[1], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		s.t.Fatal(err)
	}
	r := s.spawn(p)
	s.fds["reply"].Close()
	files := make([]*os.File, len(want))
	for i := range want {
		payload, oob := make([]byte, 16), make([]byte, 64)
		n, oobn, _, _, err := unix.Recvmsg(pair[1], payload, oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil || n == 0 {
			s.t.Fatalf("answer %d: %d bytes, %v", i, n, err)
		}
		index, errno, err := TreeReply(payload[:n])
		if err != nil || index != i || errno != want[i] || (errno == 0) != (oobn > 0) {
			s.t.Fatalf("answer %d: index %d, %v (wanted %v), %d bytes of control, %v", i, index, errno, want[i], oobn, err)
		}
		if oobn == 0 {
			continue
		}
		cmsgs := must[[]unix.SocketControlMessage](s.t)(unix.ParseSocketControlMessage(oob[:oobn]))
		fds := must[[]int](s.t)(unix.ParseUnixRights(&cmsgs[0]))
		files[i] = os.NewFile(uintptr(fds[0]), "opened")
		s.t.Cleanup(func() { files[i].Close() })
	}
	r.wait()
	return files
}
