package install_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// The architectures of a release, and who runs each one's programs here.
var arches = map[string][]string{"amd64": {"qemu-x86_64"}, "arm64": {"qemu-aarch64"}}

// release makes a release from the tree in dir and returns where it is.
func release(t *testing.T, dir, version string) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.Command("go", "run", "./hack/release", "-version", version, "-out", out)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1790000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("hack/release: %v\n%s", err, out)
	}
	return out
}

// copyTree copies what belongs to the tree, as a clone elsewhere has it.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	list := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z")
	list.Dir = harness.Tree()
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		from := filepath.Join(harness.Tree(), name)
		info, err := os.Stat(from)
		if err != nil {
			continue // removed, and not yet from the index
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), read(t, harness.Tree(), name), info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestRelease: the same tree gives the same bytes twice, also from another
// directory; Debian's own tools read the packages; what they install is the same for
// both architectures, runs, and says its version.
func TestRelease(t *testing.T) {
	const version = "v0.9.0-rc.1"
	first, second := release(t, harness.Tree(), version), release(t, copyTree(t), version)
	names, err := os.ReadDir(first)
	if err != nil || len(names) != 1+3*len(arches) {
		t.Fatalf("a release has %v, %v; want the sums, and for each architecture a tarball, a package and a list of what is in it", names, err)
	}
	for _, n := range names {
		if a, b := read(t, first, n.Name()), read(t, second, n.Name()); !bytes.Equal(a, b) {
			t.Errorf("%s differs from one time to the next", n.Name())
		}
	}
	check := exec.Command("sha256sum", "-c", "SHA256SUMS")
	check.Dir = first
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != 3*len(arches) {
		t.Errorf("sums: %v\n%s", err, out)
	}
	for arch := range arches {
		deb, base := "cri-box_0.9.0~rc.1_"+arch+".deb", "cri-box-"+version+"-linux-"+arch
		testPackage(t, first, deb, arch, version)
		testTarball(t, first, base)
		if a, b := contents(t, "dpkg-deb", "-c", filepath.Join(first, deb)), contents(t, "tar", "-tvzf", filepath.Join(first, base+".tar.gz")); !slices.Equal(a, b) {
			t.Errorf("%s: the package has\n%q\nand the tarball\n%q", arch, a, b)
		}
	}
	testDebian(t, filepath.Join(first, "cri-box_0.9.0~rc.1_"+runtime.GOARCH+".deb"))
}

// contents are modes and names of what is in an archive.
func contents(t *testing.T, list ...string) (names []string) {
	t.Helper()
	out, err := exec.Command(list[0], list[1:]...).Output()
	if err != nil {
		t.Fatalf("%q: %v", list, err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		names = append(names, f[0]+" "+f[len(f)-1])
	}
	return names
}

// answer is what a program says, on this machine or by who runs it here.
func answer(t *testing.T, arch, program string, args ...string) string {
	t.Helper()
	command := append([]string{program}, args...)
	if arch != runtime.GOARCH {
		command = append(slices.Clone(arches[arch]), command...)
	}
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%q: %v: %s", command, err, out)
	}
	return string(out)
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testPackage(t *testing.T, dir, deb, arch, version string) {
	t.Helper()
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-R", filepath.Join(dir, deb), root).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	program := filepath.Join(root, "usr/bin/cri-box")
	if got := answer(t, arch, program, "version"); got != version+"\n" {
		t.Errorf("for %s it is version %q", arch, got)
	}
	if f, err := elf.Open(program); err != nil || f.Machine != map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch] {
		t.Errorf("the program for %s is %+v, %v", arch, f, err)
	}
	config := filepath.Join(root, "etc/cri-box/config.toml")
	if got := answer(t, arch, program, "config", "check", config); got != config+" is right\n" {
		t.Errorf("the configuration that it installs: %s", got)
	}
	if control := string(read(t, root, "DEBIAN/control")); !strings.Contains(control, "\nArchitecture: "+arch+"\n") {
		t.Errorf("for %s the package says\n%s", arch, control)
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
