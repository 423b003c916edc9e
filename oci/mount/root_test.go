package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rootfs is a detached overlay over a tree, as containers have it.
func rootfs(t testing.TB, entries ...string) (*os.File, string) {
	t.Helper()
	d := tree(t, "lower/", "u/", "w/")
	grow(t, d+"/lower", entries...)
	return ok(t)(Overlay([]string{d + "/lower"}, d+"/u", d+"/w", OverlayOptions{})), d
}

func TestMakePoint(t *testing.T) {
	for name, test := range map[string]struct {
		have []string
		dest string
		dir  bool
		want string // path, or part of the error
	}{
		"exists":              {[]string{"a/b/"}, "/a/b", true, "/a/b"},
		"missing":             {nil, "/a/b/c", true, "/a/b/c"},
		"file":                {[]string{"etc/hosts=x"}, "/etc/hosts", false, "/etc/hosts"},
		"missing file":        {nil, "/etc/x/hosts", false, "/etc/x/hosts"},
		"not clean":           {nil, "//a/./b//../c/", true, "/a/c"},
		"dangling":            {[]string{"etc/resolv.conf->../run/systemd/resolve/stub-resolv.conf"}, "/etc/resolv.conf", false, "/run/systemd/resolve/stub-resolv.conf"},
		"dangling twice":      {[]string{"a->b", "b->/c/d"}, "/a/e", true, "/c/d/e"},
		"absolute link":       {[]string{"var/run->/run", "run/"}, "/var/run/secrets", true, "/run/secrets"},
		"link up and out":     {[]string{"a/b->../../../../../etc"}, "/a/b/passwd", false, "/etc/passwd"},
		"dots out":            {nil, "/../../../x", true, "/x"},
		"link to root":        {[]string{"dev->/"}, "/dev", true, "it is the root itself"},
		"root":                {nil, "/", true, "it is the root itself"},
		"loop":                {[]string{"a->b", "b->a"}, "/a", true, "too many levels"},
		"grows":               {[]string{"a->a/x"}, "/a", true, "too many levels"},
		"through a file":      {[]string{"a=x"}, "/a/b", true, "not a directory"},
		"file where dir":      {[]string{"a=x"}, "/a", true, "is a file, what is mounted is a directory"},
		"dir where file":      {[]string{"a/"}, "/a", false, "is a directory, what is mounted is a file"},
		"name too long":       {nil, "/" + strings.Repeat("x", 300), true, "file name too long"},
		"deep":                {nil, strings.Repeat("/d", 1100), true, "deeper than 1024"},
		"dangling then dots":  {[]string{"a->../../b/../c"}, "/a", true, "/c"},
		"file through a link": {[]string{"lib->usr/lib", "usr/lib/x=y"}, "/lib/x", false, "/usr/lib/x"},
	} {
		root, _ := rootfs(t, test.have...)
		got, err := MakePoint(root, test.dest, test.dir, Owner{})
		if err != nil {
			got = err.Error()
		}
		if path := strings.HasPrefix(test.want, "/"); got != test.want && (path || err == nil || !strings.Contains(got, test.want)) {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
		if err != nil {
			continue
		}
		st := stat(t, root, strings.TrimPrefix(got, "/"))
		if isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; isDir != test.dir {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
		if again, err := MakePoint(root, test.dest, test.dir, Owner{}); again != got {
			t.Errorf("%s: the second time %s, %v", name, again, err)
		}
	}
}

func TestMadeDirectoriesAreOpenToAll(t *testing.T) {
	root, _ := rootfs(t)
	if _, err := MakePoint(root, "/a/b", true, Owner{}); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, root, "a"); st.Mode&0o7777 != 0o755 {
		t.Errorf("mode %o", st.Mode)
	}
}

func TestMakePlainPoint(t *testing.T) {
	root, _ := rootfs(t, "dev->/tmp", "tmp/", "proc/")
	for _, name := range []string{"/proc", "/sys"} {
		if err := MakePlainPoint(root, name, Owner{}); err != nil {
			t.Error(err)
		}
	}
	if err := MakePlainPoint(root, "/dev", Owner{}); err == nil || !strings.Contains(err.Error(), "/dev is a symbolic link") {
		t.Errorf("got %v", err)
	}
}

// TestRace: another swaps a directory for a link that leads out, all the time.
// Nothing is ever made outside.
func TestRace(t *testing.T) {
	d := tree(t, "root/a/", "outside/b/")
	outside := d + "/outside"
	grow(t, d, "root/swap->"+strings.Repeat("../", 30)+outside[1:], "root/swap2->"+outside)
	root := ok(t)(BindOwn(d + "/root"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			with := []string{"swap", "swap2"}[i%2]
			unix.Renameat2(int(root.Fd()), "a", int(root.Fd()), with, unix.RENAME_EXCHANGE)
			unix.Renameat2(int(root.Fd()), "a", int(root.Fd()), with, unix.RENAME_EXCHANGE)
		}
	}()
	made := 0
	for range 3000 {
		if _, err := MakePoint(root, "/a/b/c", true, Owner{}); err == nil {
			made++
		}
		ReadFileIn(root, "/a/b/secret", 10)
		MkdirIn(root, "/a/d", 0o755, 0, 0)
	}
	close(stop)
	<-stopped
	if made == 0 {
		t.Error("the race was never won by the good side")
	}
	var found []string
	filepath.Walk(outside, func(p string, _ os.FileInfo, _ error) error {
		found = append(found, p)
		return nil
	})
	if len(found) != 2 {
		t.Errorf("outside there is %v", found)
	}
}

// TestMagicLinks: the links of /proc lead anywhere when followed by the kernel.
func TestMagicLinks(t *testing.T) {
	proc := ok(t)(Proc())
	for _, p := range []string{"self/root/etc/passwd", "self/cwd/root.go", "self/exe"} {
		if data, err := ReadFileIn(proc, p, 1<<20); err == nil {
			t.Errorf("%s gave %d bytes", p, len(data))
		}
	}
	if _, err := MakePoint(proc, "self/root/tmp/x", true, Owner{}); err == nil {
		t.Error("made a directory through self/root")
	}
}

func TestReadFileIn(t *testing.T) {
	root, d := rootfs(t, "etc/passwd=root:x:0:0::/:", "link->/etc/passwd", "out->../../../../../../../../etc/hostname", "dir/", "loop->loop")
	if err := unix.Mkfifo(d+"/lower/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	// Opening this one would start something: nothing but a name of it is used.
	if err := unix.Mknod(d+"/lower/device", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 130))); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d+"/lower/etc/passwd", 25); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/passwd", "/link"} {
		if data, err := ReadFileIn(root, name, 25); !strings.HasPrefix(string(data), "root:x:0:0::/:") {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	for name, want := range map[string]string{
		"fifo": "not a regular file", "device": "not a regular file", "dir": "not a regular file",
		"loop": "too many levels", "out": "no such file", "/etc/passwd": "longer than 24 bytes",
	} {
		if _, err := ReadFileIn(root, name, 24); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if _, err := ReadFileIn(root, "none", 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestMkdirIn(t *testing.T) {
	root, _ := rootfs(t, "have/", "file=")
	if err := MkdirIn(root, "/have/work/dir", 0o770, 5, 6); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"have/work", "have/work/dir"} {
		if st := stat(t, root, name); st.Mode&0o7777 != 0o770 || st.Uid != 5 || st.Gid != 6 {
			t.Errorf("%s: %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		}
	}
	if st := stat(t, root, "have"); st.Uid != 0 {
		t.Error("what existed was changed")
	}
	if err := MkdirIn(root, "/file", 0o755, 0, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func TestCopyUp(t *testing.T) {
	root, d := rootfs(t, "data/sub/f=text", "data/link->/etc/passwd", "data/empty/", "vol->/data", "out->../../../../../../../../etc")
	lower := d + "/lower/data"
	for _, err := range []error{
		os.Chown(lower, 20, 21), unix.Chmod(lower, 0o2775), unix.Chmod(lower+"/empty", 0o755), os.Lchown(lower+"/link", 22, 23),
		os.Chown(lower+"/sub/f", 24, 25), unix.Chmod(lower+"/sub/f", 0o4711),
		unix.Setxattr(lower+"/sub/f", "security.note", []byte("yes"), 0),
		unix.Mkfifo(lower+"/fifo", 0o600), unix.Chmod(lower+"/fifo", 0o622),
		unix.Mknod(lower+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.WriteFile(lower+"/sparse", []byte("start"), 0o600), os.Truncate(lower+"/sparse", 200<<30),
		unix.UtimesNanoAt(unix.AT_FDCWD, lower+"/sub/f", []unix.Timespec{{Sec: 1}, {Sec: 2, Nsec: 3000}}, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, volume := range []string{"/data", "/vol"} {
		to := tree(t)
		if err := CopyUp(t.Context(), root, volume, to); err != nil {
			t.Fatal(err)
		}
		checkCopy(t, to)
	}
	if err := CopyUp(t.Context(), root, "/none", tree(t)); err != nil {
		t.Errorf("nothing to copy: %v", err)
	}
	if err := CopyUp(t.Context(), root, "/out", tree(t)); err != nil {
		t.Errorf("a link out of the image leads to its own /etc, which is missing: %v", err)
	}
	if err := CopyUp(t.Context(), root, "/data/sub/f", tree(t)); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("volume is a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CopyUp(ctx, root, "/data", tree(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func checkCopy(t *testing.T, to string) {
	t.Helper()
	dir := ok(t)(os.Open(to))
	type attr struct{ mode, uid, gid uint32 }
	for name, want := range map[string]attr{
		"": {unix.S_IFDIR | 0o2775, 20, 21}, "link": {unix.S_IFLNK | 0o777, 22, 23}, "empty": {unix.S_IFDIR | 0o755, 0, 0},
		"sub/f": {unix.S_IFREG | 0o4711, 24, 25}, "fifo": {unix.S_IFIFO | 0o622, 0, 21},
	} {
		if st := stat(t, dir, name); (attr{st.Mode, st.Uid, st.Gid}) != want {
			t.Errorf("%s: %o %d:%d, want %o %d:%d", name, st.Mode, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
	}
	if data, err := os.ReadFile(to + "/sub/f"); string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
	if st := stat(t, dir, "sub/f"); st.Mtim.Sec != 2 || st.Mtim.Nsec != 3000 {
		t.Errorf("time %+v", st.Mtim)
	}
	if target, err := os.Readlink(to + "/link"); target != "/etc/passwd" {
		t.Errorf("%s, %v", target, err)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(to+"/sub/f", "security.note", value); string(value[:max(n, 0)]) != "yes" {
		t.Errorf("attribute %q, %v", value, err)
	}
	if st := stat(t, dir, "sparse"); st.Size != 200<<30 || st.Blocks > 100 {
		t.Errorf("sparse file: %d bytes in %d blocks", st.Size, st.Blocks)
	}
	if _, err := os.Lstat(to + "/device"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device was copied: %v", err)
	}
}

// TestCopyBounds uses small bounds.
func TestCopyBounds(t *testing.T) {
	d := tree(t, "from/a=12345", "from/b=12345")
	for to, c := range map[string]*copier{
		"more than 1048576 entries":   {ctx: t.Context(), entries: 1, bytes: 100},
		"more than 68719476736 bytes": {ctx: t.Context(), entries: 10, bytes: 9},
	} {
		from, target := ok(t)(os.Open(d+"/from")), ok(t)(os.Open(tree(t)))
		if err := c.tree(int(from.Fd()), int(target.Fd())); err == nil || !strings.Contains(err.Error(), to) {
			t.Errorf("%s: %v", to, err)
		}
	}
}
