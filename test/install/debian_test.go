package install_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// A debian is a root file system with busybox and dpkg's records, and a mount
// namespace in which it is the root: a machine to install on.
type debian struct {
	*harness.Instance
	root   string
	holder *exec.Cmd // keeps the mount namespace
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	d := &debian{harness.Bare(t), t.TempDir(), nil}
	for _, dir := range []string{"bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "proc", "sys", "dev", "run/netns", "tmp", "old"} {
		if err := os.MkdirAll(filepath.Join(d.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"bin/busybox": program, "var/lib/dpkg/status": nil} {
		if err := os.WriteFile(filepath.Join(d.root, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, applet := range []string{"sh", "sed", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(d.root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	d.hold()
	return d
}

// hold starts what keeps the machine's mount namespace until the test ends.
func (d *debian) hold() {
	d.T.Helper()
	const enter = `mount --bind "$0" "$0"; for d in proc sys dev; do mount --rbind /$d "$0/$d"; done
cd "$0"; pivot_root . old; /bin/busybox umount -l /old; echo here; exec /bin/sleep 1000000`
	d.holder = exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", enter, d.root)
	d.holder.Stderr = os.Stderr
	out, err := d.holder.StdoutPipe()
	if err != nil {
		d.T.Fatal(err)
	}
	if err := d.Node.Do(d.holder.Start); err != nil {
		d.T.Fatal(err)
	}
	d.T.Cleanup(func() { d.holder.Process.Kill(); d.holder.Wait() })
	said := make([]byte, len("here\n"))
	if _, err := out.Read(said); err != nil || string(said) != "here\n" {
		d.T.Fatalf("the machine's root is not in its place: %q, %v", said, err)
	}
}

// command is one that is typed on the machine.
func (d *debian) command(args ...string) *exec.Cmd {
	pid := fmt.Sprint(d.holder.Process.Pid)
	cmd := exec.Command("nsenter", append([]string{"--target", pid, "--mount", "--net", "--root", "--wd=/"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	return cmd
}

func (d *debian) must(args ...string) string {
	d.T.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		d.T.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// dpkg installs and removes there, with the machine's own dpkg.
func (d *debian) dpkg(args ...string) {
	d.T.Helper()
	if out, err := exec.Command("dpkg", append([]string{"--root=" + d.root}, args...)...).CombinedOutput(); err != nil {
		d.T.Fatalf("dpkg %q: %v\n%s", args, err, out)
	}
}

// files lists all that is in the root but dpkg's own records.
func (d *debian) files() (list []string) {
	d.T.Helper()
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() && strings.HasPrefix(path, filepath.Join(d.root, "var/lib/dpkg")) {
			return fs.SkipDir
		}
		list = append(list, strings.TrimPrefix(path, d.root))
		return err
	})
	if err != nil {
		d.T.Fatal(err)
	}
	return list
}

// testDebian installs a package, runs a container as start.md says, resets, and
// removes the package: nothing is left of any of it.
func testDebian(t *testing.T, deb string) {
	d := newDebian(t)
	before := d.files()
	d.dpkg("-i", deb)
	if out, err := exec.Command("dpkg-query", "--admindir="+filepath.Join(d.root, "var/lib/dpkg"), "-W", "-f=${Status}", "cri-box").Output(); err != nil || string(out) != "install ok installed" {
		t.Fatalf("dpkg says %q, %v", out, err)
	}
	d.must("/bin/sed", "-i", `s/^mode = "cni"$/mode = "embedded"/`, "/etc/cri-box/config.toml")
	serve := d.command("/usr/bin/cri-box", "serve")
	log, err := os.Create(filepath.Join(t.TempDir(), "serve.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	serve.Stdout, serve.Stderr = log, log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { serve.Process.Signal(syscall.SIGTERM); serve.Wait() }
	defer stop()
	d.Wait("the daemon", func() bool { return d.command("/usr/bin/cri-box", "ps").Run() == nil })
	ref := d.Push("busybox", harness.TestImage(t, "busybox"))
	if got := d.must("/usr/bin/cri-box", "run", "--rm", ref, "echo", "hello"); got != "hello\n" {
		t.Errorf("the container says %q", got)
	}
	id := strings.TrimSpace(d.must("/usr/bin/cri-box", "run", "-d", "--name", "web", "-p", "8080:80", ref, "sleep", "1000000"))
	groups := func() (list []string) {
		for _, depth := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
			found, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", depth, id))
			list = append(list, found...)
		}
		return list
	}
	if len(groups()) == 0 {
		t.Error("the container has no control group")
	}
	stop()
	if out, err := d.command("/usr/bin/cri-box", "reset").CombinedOutput(); err == nil || !strings.Contains(string(out), "Type yes to go on: ") || len(groups()) == 0 {
		t.Errorf("reset does not ask: %v %s", err, out)
	}
	out := d.must("/usr/bin/cri-box", "reset", "--yes")
	for _, want := range []string{"removed pod cri-box-run/web\n", "removed /var/lib/cri-box\n", "removed /run/cri-box\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("reset does not say %q:\n%s", want, out)
		}
	}
	if left := groups(); len(left) > 0 {
		t.Errorf("left after a reset: %q", left)
	}
	d.dpkg("-r", "cri-box")
	d.dpkg("-P", "cri-box")
	if left := slices.DeleteFunc(d.files(), func(f string) bool { return slices.Contains(before, f) }); len(left) > 0 {
		t.Errorf("left after reset and purge: %q", left)
	}
	for _, pid := range harness.Children(1) {
		if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err == nil && root == d.root {
			t.Errorf("left after reset and purge: %s", harness.Describe(pid))
		}
	}
}

// TestMakeInstall: DESTDIR takes what make install makes, from a fresh clone.
func TestMakeInstall(t *testing.T) {
	dest, tree := t.TempDir(), copyTree(t)
	cmd := exec.Command("make", "install", "DESTDIR="+dest)
	cmd.Dir = tree
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	program, config := filepath.Join(dest, "usr/local/bin/cri-box"), filepath.Join(dest, "etc/cri-box/config.toml")
	for _, args := range [][]string{{"version"}, {"config", "check", config}} {
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	for _, name := range []string{"etc/crictl.yaml", "usr/local/lib/systemd/system/cri-box.service"} {
		if _, err := os.Stat(filepath.Join(dest, name)); err != nil {
			t.Error(err)
		}
	}
}
