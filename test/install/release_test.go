package install_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// release makes a release for this architecture and returns its directory.
func release(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "./hack/release", "-version", version, "-arch", runtime.GOARCH, "-out", dir)
	cmd.Dir = harness.Tree()
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1790000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("hack/release: %v\n%s", err, out)
	}
	return dir
}

// TestRelease: the same tree gives the same bytes twice, and Debian's own tools
// read the package; what it installs runs and says its version.
func TestRelease(t *testing.T) {
	const version = "v0.9.0-rc.1"
	first, second := release(t, version), release(t, version)
	names, err := os.ReadDir(first)
	if err != nil || len(names) != 4 {
		t.Fatalf("a release has %v, %v; want a tarball, a package, a list of what is in it and the sums", names, err)
	}
	for _, n := range names {
		if a, b := read(t, first, n.Name()), read(t, second, n.Name()); !bytes.Equal(a, b) {
			t.Errorf("%s differs from one time to the next", n.Name())
		}
	}
	check := exec.Command("sha256sum", "-c", "SHA256SUMS")
	check.Dir = first
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sums: %v\n%s", err, out)
	}
	testPackage(t, first, "cri-box_0.9.0~rc.1_"+runtime.GOARCH+".deb", version)
	testTarball(t, first, "cri-box-"+version+"-linux-"+runtime.GOARCH)
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testPackage(t *testing.T, dir, deb, version string) {
	t.Helper()
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-R", filepath.Join(dir, deb), root).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	out, err := exec.Command(filepath.Join(root, "usr/bin/cri-box"), "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), strings.TrimPrefix(version, "v")) {
		t.Errorf("version: %v, %s", err, out)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		if out, err := exec.Command("/bin/sh", "-n", filepath.Join(root, "DEBIAN", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	for line := range strings.Lines(string(read(t, root, "DEBIAN/conffiles"))) {
		read(t, root, strings.TrimSpace(line))
	}
	for _, name := range []string{"man/man8/cri-box.8", "man/man8/cri-box-why.8", "bash-completion/completions/cri-box"} {
		read(t, root, "usr/share/"+name)
	}
	unit := string(read(t, root, "usr/lib/systemd/system/cri-box.service"))
	if !strings.Contains(unit, "ExecStart=/usr/bin/cri-box serve\n") {
		t.Errorf("the unit starts another program:\n%s", unit)
	}
}

// testTarball wants the tarball to be what the package has, and every module that
// is linked in to be in the list and in the notices.
func testTarball(t *testing.T, dir, base string) {
	t.Helper()
	root := t.TempDir()
	if out, err := exec.Command("tar", "-xzf", filepath.Join(dir, base+".tar.gz"), "-C", root).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	var list struct {
		Packages []struct{ Name, VersionInfo string }
	}
	if err := json.Unmarshal(read(t, dir, base+".spdx.json"), &list); err != nil {
		t.Fatal(err)
	}
	notices := string(read(t, root, "usr/share/doc/cri-box/THIRD-PARTY-NOTICES"))
	have := map[string]bool{}
	for _, p := range list.Packages {
		have[p.Name+" "+p.VersionInfo] = true
		if p.Name != "cri-box" && !strings.Contains(notices, p.Name+" "+p.VersionInfo) {
			t.Errorf("the notices have no licence of %s %s", p.Name, p.VersionInfo)
		}
	}
	out, err := exec.Command("go", "version", "-m", filepath.Join(root, "usr/bin/cri-box")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" && !have[f[1]+" "+f[2]] {
			t.Errorf("the list of what is linked in has no %s %s", f[1], f[2])
		}
	}
}
