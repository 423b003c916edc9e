// Package install_test installs cri-box below a directory and looks at what is
// there then, also through the eyes of those who read it: serve and crictl.
package install_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// A copied is what an installation is made from, as the image of a kind node has it.
type copied struct {
	t    *testing.T
	dir  string
	dest string
}

// newCopy copies what hack/kind/Dockerfile copies.
func newCopy(t *testing.T) copied {
	t.Helper()
	c := copied{t, t.TempDir(), t.TempDir()}
	tree := harness.Tree()
	if err := os.CopyFS(filepath.Join(c.dir, "hack/install"), os.DirFS(filepath.Join(tree, "hack/install"))); err != nil {
		t.Fatal(err)
	}
	c.copy(filepath.Join(tree, "hack/install.sh"), "hack/install.sh")
	return c
}

func (c copied) copy(from, to string) {
	c.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(filepath.Join(c.dir, to), string(data), 0o755)
}

func (c copied) write(path, text string, mode os.FileMode) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
}

// run runs the script with these variables and no others but PATH.
func (c copied) run(vars ...string) (string, error) {
	cmd := exec.Command("/bin/sh", filepath.Join(c.dir, "hack/install.sh"))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "DESTDIR=" + c.dest}, vars...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c copied) mustRun(vars ...string) string {
	c.t.Helper()
	out, err := c.run(vars...)
	if err != nil {
		c.t.Fatalf("install.sh: %v\n%s", err, out)
	}
	return out
}

// installed lists files and empty directories with their modes.
func (c copied) installed() (list []string) {
	c.t.Helper()
	err := filepath.WalkDir(c.dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
				return err
			}
		}
		info, err := d.Info()
		list = append(list, fmt.Sprintf("%v %s", info.Mode(), strings.TrimPrefix(path, c.dest)))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}

func (c copied) read(path string) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dest, path))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

func TestInstall(t *testing.T) {
	c := newCopy(t)
	c.copy(harness.CriBox(t), "bin/cri-box")
	c.mustRun()
	want := []string{
		"-rw-r--r-- /etc/cri-box/config.toml",
		"-rw-r--r-- /etc/crictl.yaml",
		"-rw-r--r-- /usr/local/lib/systemd/system/cri-box.service",
		"-rwxr-xr-x /usr/local/bin/cri-box",
		"drwxr-xr-x /etc/cri-box/certs.d",
		"drwxr-xr-x /etc/cri-box/conf.d",
	}
	got := c.installed()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("installed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(c.read("/usr/local/lib/systemd/system/cri-box.service"), "\nExecStart=/usr/local/bin/cri-box serve\n") {
		t.Error("the unit does not start what was installed")
	}
	program := filepath.Join(c.dest, "usr/local/bin/cri-box")
	if out, err := exec.Command(program, "config", "check", filepath.Join(c.dest, "etc/cri-box/config.toml")).CombinedOutput(); err != nil {
		t.Errorf("the configuration that was installed is refused: %v\n%s", err, out)
	}
	if out, err := exec.Command(program, "config", "default").Output(); err != nil || !strings.Contains(string(out), "\n#state = \"/run/cri-box\"\n") {
		t.Fatalf("the default state directory is another one (%v):\n%s", err, out)
	}
	const endpoint = "runtime-endpoint: unix:///run/cri-box/cri-box.sock\n"
	if !strings.Contains(c.read("/etc/crictl.yaml"), endpoint) {
		t.Errorf("crictl.yaml has no %q", endpoint)
	}
}

func TestPrefix(t *testing.T) {
	c := newCopy(t)
	c.write(filepath.Join(c.dir, "bin/cri-box"), "program", 0o755)
	c.mustRun("PREFIX=/usr")
	if got := c.read("/usr/bin/cri-box"); got != "program" {
		t.Errorf("the program is %q", got)
	}
	if unit := c.read("/usr/lib/systemd/system/cri-box.service"); !strings.Contains(unit, "ExecStart=/usr/bin/cri-box serve\n") {
		t.Errorf("the unit starts another program:\n%s", unit)
	}
	if out, err := c.run("PREFIX=usr"); err == nil || !strings.Contains(out, "PREFIX=usr") {
		t.Errorf("a relative prefix: %v\n%s", err, out)
	}
}

// TestEnabled: systemd finds the unit by its name, wherever the programs went, and
// starts it with the node. The root is this machine's with what is written kept apart,
// and without the systemd that may run.
func TestEnabled(t *testing.T) {
	const script = `mount -t tmpfs none /run; mkdir /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work none /etc
for dir in /etc/systemd /opt /usr/local; do mount -t tmpfs none $dir; done
for again in 1 2; do "$0"; done
systemctl is-enabled cri-box.service
readlink -f /etc/systemd/system/multi-user.target.wants/cri-box.service`
	c := newCopy(t)
	c.write(filepath.Join(c.dir, "bin/cri-box"), "program", 0o755)
	for _, prefix := range []string{"/usr/local", "/opt"} {
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", script, filepath.Join(c.dir, "hack/install.sh"))
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_OFFLINE=1", "PREFIX=" + prefix}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "\nenabled\n"+prefix+"/lib/systemd/system/cri-box.service\n") {
			t.Errorf("PREFIX=%s: %v\n%s", prefix, err, out)
		}
	}
}

// An upgrade replaces the program, also while it runs, and nothing that the
// administrator wrote.
func TestUpgrade(t *testing.T) {
	c := newCopy(t)
	binary := filepath.Join(c.dir, "bin/cri-box")
	c.copy(harness.Workload(t), "bin/cri-box")
	c.mustRun()
	running := exec.Command(filepath.Join(c.dest, "usr/local/bin/cri-box"), "sleep-forever")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()
	c.write(binary, "new", 0o755)
	mine := filepath.Join(c.dest, "etc/crictl.yaml")
	c.write(mine, "mine", 0o644)
	out := c.mustRun()
	if got := c.read("/usr/local/bin/cri-box"); got != "new" {
		t.Errorf("the program was not replaced: %.20q", got)
	}
	if got := c.read("/etc/crictl.yaml"); got != "mine" || !strings.Contains(out, "kept "+mine) {
		t.Errorf("crictl.yaml is %q after:\n%s", got, out)
	}
	c.mustRun("REPLACE=1")
	if got := c.read("/etc/crictl.yaml"); got == "mine" {
		t.Error("REPLACE=1 did not replace crictl.yaml")
	}
}

func TestNotBuilt(t *testing.T) {
	c := newCopy(t)
	out, err := c.run()
	if err == nil || !strings.Contains(out, "make build makes it") {
		t.Errorf("got %v\n%s", err, out)
	}
	if left := c.installed(); len(left) > 1 { // the directory itself
		t.Errorf("installed in spite of it: %v", left)
	}
}

// The image of a kind node copies what is in the tree and runs install.sh alone.
func TestKind(t *testing.T) {
	tree := harness.Tree()
	text, err := os.ReadFile(filepath.Join(tree, "hack/kind/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	copies := regexp.MustCompile(`(?m)^COPY (\S+) /opt/cri-box/(\S+)$`).FindAllStringSubmatch(string(text), -1)
	if len(copies) != 3 {
		t.Errorf("%d lines copy, want 3", len(copies))
	}
	for _, c := range copies {
		if _, err := os.Stat(filepath.Join(tree, c[1])); c[1] != c[2] || err != nil && c[1] != "bin/cri-box" {
			t.Errorf("%s: %v", c[0], err)
		}
	}
	runs := regexp.MustCompile(`(?m)^RUN .*$`).FindAllString(string(text), -1)
	if !slices.Equal(runs, []string{"RUN REPLACE=1 /opt/cri-box/hack/install.sh"}) {
		t.Errorf("it runs %q", runs)
	}
	cluster, err := os.ReadFile(filepath.Join(tree, "hack/kind/kind.yaml"))
	if err != nil || !strings.Contains(string(cluster), "criSocket: unix:///run/cri-box/cri-box.sock\n") {
		t.Errorf("the kubelet talks to something else (%v):\n%s", err, cluster)
	}
}
