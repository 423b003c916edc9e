package powercut_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The recorder is the program's supervisor (SECCOMP_RET_USER_NOTIF, seccomp(2)): the
// kernel asks it before each call that changes files, in one order, and it notes
// what will be. Calls go on by themselves, but those that sync: the recorder
// answers them, so that whatever depends on a sync comes after it in the record.

// recorded are the calls that the kernel asks about. openat is asked about where
// it may make or empty a file.
var recorded = []uint32{
	unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
	unix.SYS_MKNODAT, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS, unix.SYS_SYNC,
}

// filter is the BPF program: offsets are those of struct seccomp_data.
func filter() []unix.SockFilter {
	const ld, jeq, jset, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const allow, ask = 0x7fff0000, 0x7fc00000
	prog := []unix.SockFilter{{Code: ld, K: 0},
		{Code: jeq, Jf: 4, K: unix.SYS_OPENAT},
		{Code: ld, K: 16 + 2*8}, // flags
		{Code: jset, Jf: 1, K: unix.O_CREAT | unix.O_TRUNC},
		{Code: ret, K: ask},
		{Code: ret, K: allow}}
	for _, nr := range recorded[1:] {
		prog = append(prog, unix.SockFilter{Code: jeq, Jf: 1, K: nr}, unix.SockFilter{Code: ret, K: ask})
	}
	return append(prog, unix.SockFilter{Code: ret, K: allow})
}

// beRecorded gives the parent the descriptor that the kernel asks on. From then on
// every thread of this process is recorded.
func beRecorded(parent int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := filter()
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	const setModeFilter, tsync, newListener, tsyncESRCH = 1, 1 << 0, 1 << 3, 1 << 4
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, tsync|newListener|tsyncESRCH, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("cannot install filter: %w", errno)
	}
	defer unix.Close(int(fd))
	return unix.Sendmsg(parent, []byte{0}, unix.UnixRights(int(fd)), nil, 0)
}

// A notification is struct seccomp_notif.
type notification struct {
	ID         uint64
	PID, Flags uint32
	Nr         int32
	Arch       uint32
	IP         uint64
	Args       [6]uint64
}

type response struct {
	ID           uint64
	Val          int64
	Error, Flags int32
}

const (
	ioctlRecv = 0xc0502100
	ioctlSend = 0xc0182101
	goOn      = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// A recorder follows one process.
type recorder struct {
	t    *testing.T
	fd   int
	pid  int
	mem  *os.File
	root string
	disk *disk
	ops  []op
}

// record runs cmd, which calls beRecorded on its descriptor 3, and returns what it
// did to the files below root.
func record(t *testing.T, cmd *exec.Cmd, root string) []op {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "child")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	fd, err := receiveFD(pair[0])
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the recorded program gave no descriptor: %v", err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	r := &recorder{t: t, fd: fd, pid: cmd.Process.Pid, mem: mem, root: root, disk: newDisk()}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := r.run(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("the recorded program: %v", err)
	}
	return r.ops
}

func receiveFD(conn int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, errors.Join(err, errors.New("it ended"))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// run answers until the process has ended.
func (r *recorder) run() error {
	defer unix.Close(r.fd)
	for {
		p := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == unix.EINTR {
			continue
		}
		if p[0].Revents&unix.POLLIN == 0 {
			return nil // the last thread is gone
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.fd), ioctlRecv, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT { // a signal took the call back
				continue
			}
			return errno
		}
		resp := response{ID: n.ID, Flags: goOn}
		if r.note(&n) {
			resp.Flags = 0
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(r.fd), ioctlSend, uintptr(unsafe.Pointer(&resp)))
	}
}

// note adds a call to the record; answered says that it is done with that.
func (r *recorder) note(n *notification) (answered bool) {
	a := n.Args
	add := func(o op, ok bool) {
		if ok {
			r.ops = append(r.ops, o)
			r.disk.apply(o)
		}
	}
	switch n.Nr {
	case unix.SYS_OPENAT:
		add(r.disk.create(r.path(a[0], a[1]), a[2]&unix.O_TRUNC != 0))
	case unix.SYS_MKDIRAT:
		add(r.disk.mkdir(r.path(a[0], a[1])))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		add(r.disk.rename(r.path(a[0], a[1]), r.path(a[2], a[3])))
	case unix.SYS_UNLINKAT:
		add(r.disk.unlink(r.path(a[0], a[1])))
	case unix.SYS_LINKAT:
		add(r.disk.link(r.path(a[0], a[1]), r.path(a[2], a[3])))
	case unix.SYS_SYMLINKAT:
		add(r.disk.symlink(r.text(a[0]), r.path(a[1], a[2])))
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		r.noteWrite(n, add)
	case unix.SYS_FTRUNCATE:
		add(r.disk.truncate(r.open(a[0]), int64(a[1])))
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		path := r.open(a[0])
		add(r.disk.sync(path))
		return path != ""
	case unix.SYS_SYNCFS:
		add(op{kind: opSyncAll}, true)
		return true
	default:
		r.t.Errorf("the recorder does not know call %d", n.Nr)
	}
	return false
}

func (r *recorder) noteWrite(n *notification, add func(op, bool)) {
	data := make([]byte, n.Args[2])
	if _, err := r.mem.ReadAt(data, int64(n.Args[1])); err != nil {
		r.t.Errorf("cannot read what is written: %v", err)
	}
	link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", r.pid, n.Args[0]))
	if strings.HasPrefix(link, "pipe:") && bytes.HasPrefix(data, []byte(mark)) {
		add(op{kind: opMark, name: strings.TrimPrefix(string(data), mark)}, true)
		return
	}
	offset := int64(n.Args[3])
	if n.Nr == unix.SYS_WRITE {
		offset = r.position(n.Args[0])
	}
	add(r.disk.write(r.open(n.Args[0]), offset, data))
}

// position is a descriptor's offset (proc(5), fdinfo).
func (r *recorder) position(fd uint64) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", r.pid, fd))
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "pos:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// open is the path, from root on, of an open file; "" if it is elsewhere.
func (r *recorder) open(fd uint64) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", r.pid, int32(fd)))
	if err != nil || strings.HasSuffix(link, " (deleted)") {
		return ""
	}
	return r.below(link)
}

// path is that of a name in a directory.
func (r *recorder) path(dirfd, name uint64) string {
	text := r.text(name)
	if !filepath.IsAbs(text) {
		dir := fmt.Sprintf("/proc/%d/fd/%d", r.pid, int32(dirfd))
		if int32(dirfd) == unix.AT_FDCWD {
			dir = fmt.Sprintf("/proc/%d/cwd", r.pid)
		}
		link, _ := os.Readlink(dir)
		text = filepath.Join(link, text)
	}
	return r.below(filepath.Clean(text))
}

func (r *recorder) below(path string) string {
	if path == r.root {
		return "."
	}
	rel, ok := strings.CutPrefix(path, r.root+"/")
	if !ok {
		return ""
	}
	return rel
}

// text is a string in the process's memory.
func (r *recorder) text(at uint64) string {
	b := make([]byte, 4096)
	n, _ := r.mem.ReadAt(b, int64(at)) // short at the end of a mapping
	if end := bytes.IndexByte(b[:n], 0); end >= 0 {
		return string(b[:end])
	}
	r.t.Error("a name without an end")
	return ""
}

// mark begins what the recorded program writes to a pipe to say how far it is.
var mark = string(binary.BigEndian.AppendUint64(nil, 0xc41b0c5a11dead01))
