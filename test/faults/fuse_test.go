package faults_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"golang.org/x/sys/unix"
)

// A deadVolume is a file system that reads requests and does not answer (FUSE):
// whoever looks for a name in it is in the D state, where no signal ends it. It is
// mounted in a mount namespace of its own, so that nobody else meets it.
type deadVolume struct {
	Dir    string // where it is mounted
	serve  string // starts serve where it can be seen
	fuse   *os.File
	revive func()      // ends it: those who wait get an error
	asked  atomic.Bool // who asks next waits for the directory's lock, in the D state
}

func newDeadVolume(t *testing.T) *deadVolume {
	t.Helper()
	dir := t.TempDir()
	d := &deadVolume{Dir: filepath.Join(dir, "dead"), serve: filepath.Join(dir, "serve")}
	if err := os.Mkdir(d.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) // blocking: it is read by a thread of its own
	if err != nil {
		t.Fatal(err)
	}
	d.fuse = os.NewFile(uintptr(fd), "fuse")
	place, done, ended := make(chan any), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		harness.OnThread(func() error {
			if err := mountFUSE(fd, d.Dir); err != nil {
				place <- err
				return nil
			}
			place <- fmt.Sprintf("/proc/%d/task/%d/ns/mnt", os.Getpid(), unix.Gettid())
			<-done
			unix.Unmount(d.Dir, unix.MNT_FORCE) // which ends the connection (fuse_umount_begin)
			unix.Unmount(d.Dir, unix.MNT_DETACH)
			return nil
		})
	}()
	d.revive = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(d.revive)
	switch at := (<-place).(type) {
	case error:
		t.Fatal(at)
	case string:
		script := fmt.Sprintf("#!/bin/sh\nexec nsenter --mount=%s %s \"$@\"\n", at, harness.CriBox(t))
		if err := supervise.WriteScript(d.serve, script); err != nil {
			t.Fatal(err)
		}
	}
	go d.answer()
	return d
}

func mountFUSE(fd int, dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
}

// Requests of fuse_kernel.h that are answered.
const (
	fuseGetattr = 3
	fuseStatfs  = 17
	fuseInit    = 26
	fuseLookup  = 1
	fuseOpendir = 27
)

// answer tells what the root is, and never what is in it.
func (d *deadVolume) answer() {
	buf := make([]byte, 1<<20)
	fd := int(d.fuse.Fd())
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		le := binary.LittleEndian
		var out []byte
		switch le.Uint32(buf[4:]) {
		case fuseInit:
			out = make([]byte, 64) // struct fuse_init_out
			le.PutUint32(out[0:], 7)
			le.PutUint32(out[4:], 31)
			le.PutUint32(out[20:], 4096) // max_write
		case fuseGetattr:
			out = make([]byte, 104) // struct fuse_attr_out
			le.PutUint64(out[16:], 1)
			le.PutUint32(out[16+60:], unix.S_IFDIR|0o755)
			le.PutUint32(out[16+64:], 2)
		case fuseLookup, fuseOpendir:
			d.asked.Store(true)
			continue
		}
		reply := make([]byte, 16, 16+len(out)) // struct fuse_out_header
		le.PutUint32(reply, uint32(16+len(out)))
		if out == nil {
			errno := int32(-int(unix.ENOSYS))
			le.PutUint32(reply[4:], uint32(errno))
		}
		copy(reply[8:], buf[8:16])
		unix.Write(fd, append(reply, out...))
	}
}
