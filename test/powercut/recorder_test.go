package powercut_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/supervise"
	"golang.org/x/sys/unix"
)

// The recorder is the program's supervisor (test/supervise): the kernel asks it
// before each call that changes files, in one order, and it notes what will be. Calls go on by themselves, but those that sync: the recorder
// answers them, so that whatever depends on a sync comes after it in the record.

// A recorder follows one process.
type recorder struct {
	t    *testing.T
	root string
	disk *disk
	ops  []op
}

// record runs cmd, which calls supervise.Begin on its descriptor 3, and returns what it
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
	fd, err := supervise.Take(pair[0])
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the recorded program gave no descriptor: %v", err)
	}
	defer unix.Close(fd)
	r := &recorder{t: t, root: root, disk: newDisk()}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		c, err := supervise.Next(fd)
		if err != nil {
			t.Error(err)
		}
		if c == nil {
			break
		}
		answer := supervise.GoOn
		if r.note(c) {
			answer = supervise.Done
		}
		c.Answer(answer)
	}
	if err := <-ended; err != nil {
		t.Fatalf("the recorded program: %v", err)
	}
	return r.ops
}

// note adds a call to the record; answered says that it is done with that.
func (r *recorder) note(c *supervise.Call) (answered bool) {
	a := c.Args
	add := func(o op, ok bool) {
		if ok {
			r.ops = append(r.ops, o)
			r.disk.apply(o)
		}
	}
	switch c.Nr {
	case unix.SYS_OPENAT:
		add(r.disk.create(r.below(c.Path(a[0], a[1])), a[2]&unix.O_TRUNC != 0, os.FileMode(a[3]&0o777)))
	case unix.SYS_MKDIRAT:
		add(r.disk.mkdir(r.below(c.Path(a[0], a[1]))))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		add(r.disk.rename(r.below(c.Path(a[0], a[1])), r.below(c.Path(a[2], a[3]))))
	case unix.SYS_UNLINKAT:
		add(r.disk.unlink(r.below(c.Path(a[0], a[1]))))
	case unix.SYS_LINKAT:
		add(r.disk.link(r.below(c.Path(a[0], a[1])), r.below(c.Path(a[2], a[3]))))
	case unix.SYS_SYMLINKAT:
		add(r.disk.symlink(c.Text(a[0]), r.below(c.Path(a[1], a[2]))))
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		r.noteWrite(c, add)
	case unix.SYS_FTRUNCATE:
		add(r.disk.truncate(r.open(c, a[0]), int64(a[1])))
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		path := r.open(c, a[0])
		add(r.disk.sync(path))
		return path != ""
	case unix.SYS_SYNCFS:
		add(op{kind: opSyncAll}, true)
		return true
	case unix.SYS_MKNODAT:
		if path := r.below(c.Path(a[0], a[1])); path != "" {
			r.t.Errorf("the recorder does not know what mknodat made at %s", path)
		}
	default:
		r.t.Errorf("the recorder does not know %s", c.Name())
	}
	return false
}

func (r *recorder) noteWrite(c *supervise.Call, add func(op, bool)) {
	data := c.Memory(c.Args[1], int(c.Args[2]))
	if len(data) != int(c.Args[2]) {
		r.t.Error("cannot read what is written")
	}
	file := c.Open(c.Args[0])
	if strings.HasPrefix(file, "pipe:") && bytes.HasPrefix(data, []byte(mark)) {
		add(op{kind: opMark, name: strings.TrimPrefix(string(data), mark)}, true)
		return
	}
	offset := int64(c.Args[3])
	if c.Nr == unix.SYS_WRITE {
		offset = c.Position(c.Args[0])
	}
	add(r.disk.write(r.open(c, c.Args[0]), offset, data))
}

// open is the path, from root on, of an open file; "" if it is elsewhere.
func (r *recorder) open(c *supervise.Call, fd uint64) string {
	path := c.Open(fd)
	if strings.HasSuffix(path, " (deleted)") {
		return ""
	}
	return r.below(path)
}

// below is a path from root on; "" if it is elsewhere.
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

// mark begins what the recorded program writes to a pipe to say how far it is.
var mark = string(binary.BigEndian.AppendUint64(nil, 0xc41b0c5a11dead01))
