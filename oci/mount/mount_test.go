package mount

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestTmpfs(t *testing.T) {
	f := ok(t)(Tmpfs(TmpfsOptions{Size: 1 << 20, Mode: 0o1777, UID: 7, GID: 8, Attr: Attr{NoExec: true, NoDev: true, NoSUID: true}}))
	st := stat(t, f, "")
	if st.Mode != unix.S_IFDIR|0o1777 || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if got := int64(fs.Blocks) * fs.Bsize; got != 1<<20 {
		t.Errorf("size %d", got)
	}
	if want := int64(unix.ST_NOEXEC | unix.ST_NODEV | unix.ST_NOSUID); fs.Flags&want != want {
		t.Errorf("flags %x", fs.Flags)
	}
}

func TestEmptyReadOnlyDir(t *testing.T) {
	f := ok(t)(EmptyReadOnlyDir())
	if err := write(f, "x"); err != unix.EROFS {
		t.Errorf("got %v", err)
	}
}

func TestDev(t *testing.T) {
	mode, id := os.FileMode(0o640), uint32(6)
	f := ok(t)(Dev([]specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &id, GID: &id},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/loop9", Type: "b", Major: 7, Minor: 9},
	}, DevOptions{UID: 3, GID: 4}))
	for name, want := range map[string]string{
		"null": "20640 1:3 6:6", "zero": "20666 1:5 3:4", "full": "20666 1:7 3:4", "random": "20666 1:8 3:4",
		"urandom": "20666 1:9 3:4", "tty": "20666 5:0 3:4", "net": "40755 0:0 3:4", "net/tun": "20666 10:200 3:4",
		"loop9": "60666 7:9 3:4", "pts": "40755 0:0 3:4", "shm": "40755 0:0 3:4", "mqueue": "40755 0:0 3:4",
		"fd": "120777 0:0 3:4",
	} {
		st := stat(t, f, name)
		got := fmt.Sprintf("%o %d:%d %d:%d", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Uid, st.Gid)
		if got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{"fd": "/proc/self/fd", "stdout": "/proc/self/fd/1", "core": "/proc/kcore", "ptmx": "pts/ptmx"} {
		buf := make([]byte, 64)
		if n, err := unix.Readlinkat(int(f.Fd()), name, buf); string(buf[:max(n, 0)]) != want {
			t.Errorf("%s -> %s, %v", name, buf[:max(n, 0)], err)
		}
	}
	null, err := unix.Openat(int(f.Fd()), "zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("its devices do not open: %v", err)
	}
	unix.Close(null)
}

func TestDevErrors(t *testing.T) {
	for want, d := range map[string]specs.LinuxDevice{
		"not below /dev": {Path: "/dev/../etc/x", Type: "c"},
		"type \"x\"":     {Path: "/dev/x", Type: "x"},
		"file exists":    {Path: "/dev/zero/", Type: "b"},
	} {
		f, err := Dev([]specs.LinuxDevice{d, {Path: "/dev/zero", Type: "c"}}, DevOptions{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if f != nil {
			f.Close()
		}
	}
}

func TestPTY(t *testing.T) {
	pts := ok(t)(Devpts(5, ""))
	master, slave, err := OpenPTY(pts)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if _, err := slave.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	if n, err := master.Read(buf); string(buf[:n]) != "hello\r\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	st := stat(t, pts, "0")
	if st.Mode != unix.S_IFCHR|0o620 || st.Gid != 5 || st.Rdev != stat(t, slave, "").Rdev {
		t.Errorf("pts/0: %+v", st)
	}
	if !Detect().CloneDetached {
		return
	}
	console := ok(t)(Clone(slave, false))
	if got := stat(t, console, ""); got.Ino != st.Ino || got.Dev != st.Dev {
		t.Errorf("the clone is another file: %+v", got)
	}
}

// TestHold takes clones of a tmpfs as kernels do that clone nothing detached.
func TestHold(t *testing.T) {
	tmpfs := ok(t)(Tmpfs(TmpfsOptions{Mode: 0o755}))
	if err := write(tmpfs, "file"); err != nil {
		t.Fatal(err)
	}
	want := stat(t, tmpfs, "file")
	held := ok(t)(holdAttached(tmpfs))
	if !isNamespace(held) {
		t.Fatalf("%s is no namespace", held.Name())
	}
	for range 2 {
		c := ok(t)(cloneHeld(held))
		if got := stat(t, c, "file"); got.Ino != want.Ino || got.Dev != want.Dev {
			t.Errorf("the clone's file: %+v, wanted %+v", got, want)
		}
	}
}

// inNamespace runs do on a thread with a mount namespace of its own, which ends
// with it, and dir as a shared mount in it.
func inNamespace(t *testing.T, dir string, do func() error) {
	t.Helper()
	var err error
	onOwnThread(func() {
		if err = shareInNamespace(dir); err == nil {
			err = do()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func shareInNamespace(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, d := range []string{dir, dir + "/below"} {
		if err := unix.Mount("none", d, "tmpfs", 0, ""); err != nil {
			return err
		}
		os.Mkdir(dir+"/below", 0o755)
	}
	return unix.Mount("", dir, "", unix.MS_REC|unix.MS_SHARED, "")
}

// attach moves f to at, in the namespace of inNamespace, and returns what the
// kernel says about each mount there: "options [propagation]".
func attach(f *os.File, at string) ([]string, error) {
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, err
	}
	f.Close()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	var found []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], at) {
			found = append(found, f[5]+" ["+strings.TrimRight(f[6], ":0123456789")+"]")
		}
	}
	return found, err
}

func TestAttributes(t *testing.T) {
	d := tree(t, "dir/", "at/")
	for name, test := range map[string]struct {
		recursive bool
		attr      Attr
		want      string
	}{
		"clone":     {false, Attr{}, "rw,relatime [shared]"},
		"recursive": {true, Attr{}, "rw,relatime [shared], rw,relatime [shared]"},
		"private":   {true, Attr{Propagation: Private}, "rw,relatime [-], rw,relatime [-]"},
		"slave":     {true, Attr{Propagation: Slave}, "rw,relatime [master], rw,relatime [master]"},
		"read-only": {true, Attr{ReadOnly: true, NoExec: true, NoDev: true, NoSUID: true, Propagation: Private},
			"ro,nosuid,nodev,noexec,relatime [-], rw,relatime [-]"},
		"recursively read-only": {true, Attr{RecursiveReadOnly: true, Propagation: Shared}, "ro,relatime [shared], ro,relatime [shared]"},
	} {
		inNamespace(t, d+"/dir", func() error {
			dir, err := os.Open(d + "/dir")
			if err != nil {
				return err
			}
			defer dir.Close()
			f, err := Clone(dir, test.recursive)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := SetAttr(f, test.attr); err != nil {
				return err
			}
			got, err := attach(f, d+"/at")
			if strings.Join(got, ", ") != test.want {
				t.Errorf("%s: %v, want %s", name, got, test.want)
			}
			return err
		})
	}
	inNamespace(t, d+"/dir", func() error {
		f, err := BindOwn(d + "/dir")
		if err != nil {
			return err
		}
		got, err := attach(f, d+"/at")
		if strings.Join(got, ", ") != "rw,relatime [-]" {
			t.Errorf("BindOwn: %v", got)
		}
		return err
	})
}

func TestBindOwnFile(t *testing.T) {
	d := tree(t, "hosts=text", "link->hosts")
	f := ok(t)(BindOwn(d + "/hosts"))
	if st := stat(t, f, ""); st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 4 {
		t.Errorf("%+v", st)
	}
	link := ok(t)(BindOwn(d + "/link"))
	if st := stat(t, link, ""); st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("a symbolic link was followed: %+v", st)
	}
}

func TestKernelSaysWhy(t *testing.T) {
	c := newContext("tmpfs")
	c.set("size", "many")
	_, err := c.mount(0)
	if err == nil || !strings.Contains(err.Error(), "size=many") || !strings.Contains(err.Error(), "kernel: ") {
		t.Errorf("got %v", err)
	}
	t.Log(err)
	if _, err := newContext("no such").mount(0); err == nil || !strings.Contains(err.Error(), "no such") {
		t.Errorf("got %v", err)
	}
}
