package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestDoctor: every area is looked at; what is wrong is found and ends in code 1.
func TestDoctor(t *testing.T) {
	certs := t.TempDir()
	i := harness.New(t, harness.Config(fmt.Sprintf("image.certs_dirs = [%q]", certs)))
	file := filepath.Join(i.Dir, "config.toml")
	doctor := func(args ...string) (findings []finding, code int) {
		cmd := i.Command(append([]string{"doctor", "--state", i.State, "--config", file, "-o", "json"}, args...)...)
		var out []byte
		i.Node.Do(func() (err error) { out, err = cmd.Output(); return err })
		if err := json.Unmarshal(out, &findings); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		return findings, cmd.ProcessState.ExitCode()
	}
	findings, _ := doctor()
	for _, area := range []string{"kernel", "security", "cgroups", "limits", "directories", "clock", "network", "registries", "daemon"} {
		if !slices.ContainsFunc(findings, func(f finding) bool { return f.Area == area }) {
			t.Errorf("nothing was said about %s", area)
		}
	}
	for _, f := range findings {
		if f.State != "ok" && (f.Consequence == "" || f.Remedy == "") {
			t.Errorf("no consequence or no remedy: %+v", f)
		}
		// What a machine that runs these tests has.
		if f.State == "BAD" && f.Area != "directories" {
			t.Errorf("bad: %+v", f)
		}
	}
	hosts := filepath.Join(certs, "broken.example.org")
	if err := os.Mkdir(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte("capabilities = "), 0o644); err != nil {
		t.Fatal(err)
	}
	findings, code := doctor("registries")
	if code != 1 || len(findings) != 1 || findings[0].State != "BAD" || !strings.Contains(findings[0].Remedy, hosts) {
		t.Errorf("a wrong hosts.toml: code %d, %+v", code, findings)
	}
	if err := os.Chmod(i.State, 0o777); err != nil {
		t.Fatal(err)
	}
	findings, code = doctor("directories")
	if code != 1 || !slices.ContainsFunc(findings, func(f finding) bool { return f.What == i.State && f.State == "BAD" }) {
		t.Errorf("a state directory open to all: code %d, %+v", code, findings)
	}
}

// TestDoctorOfRegistries: links are followed, what unknown registries have is looked
// at, and what no pull reads is named.
func TestDoctorOfRegistries(t *testing.T) {
	certs := t.TempDir()
	i := harness.New(t, harness.Config(fmt.Sprintf("image.certs_dirs = [%q]", certs)))
	broken, whole := filepath.Join(t.TempDir(), "broken"), filepath.Join(t.TempDir(), "whole")
	for dir, text := range map[string]string{broken: "capabilities = ", whole: "server = 'https://mirror.example.org'\n",
		certs + "/_default": "capabilities = ", certs + "/docker.io": "", certs + "/nohost": "", certs + "/right.example.org_5000_": ""} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(broken, certs+"/broken.example.org"), os.Symlink(whole, certs+"/whole.example.org")); err != nil {
		t.Fatal(err)
	}
	look := func(state string) string {
		cmd := i.Command("doctor", "--state", state, "--config", filepath.Join(i.Dir, "config.toml"), "-o", "json", "registries")
		out, _ := cmd.Output()
		var findings []finding
		if err := json.Unmarshal(out, &findings); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		var list []string
		for _, f := range findings {
			list = append(list, f.State+" "+strings.Fields(f.What)[1])
		}
		return strings.Join(list, ", ")
	}
	if got, want := look(i.State), "BAD _default, BAD broken.example.org, ok docker.io:, note nohost:, ok right.example.org:5000:, ok whole.example.org:"; got != want {
		t.Errorf("found %s\nwanted %s", got, want)
	}
	if got, want := look(t.TempDir()), "note _default, note broken.example.org, note docker.io, note nohost, note right.example.org:5000, note whole.example.org"; got != want {
		t.Errorf("without a daemon: found %s\nwanted %s", got, want)
	}
}

// TestDoctorOfAWrongFile: a configuration with which no daemon starts is bad, whether
// one runs with the one before or not.
func TestDoctorOfAWrongFile(t *testing.T) {
	i := harness.New(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("nonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{i.State, t.TempDir()} {
		cmd := i.Command("doctor", "daemon", "--state", state, "--config", file)
		out, _ := cmd.Output()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "configuration files") || !strings.Contains(string(out), "cannot use configuration: "+file+":1: nonsense: there is no such setting") {
			t.Errorf("code %d\n%s", code, out)
		}
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid", "65534", "--clear-groups", nobodys(t, harness.CriBox(t)), "doctor", "daemon", "--state", filepath.Join(t.TempDir(), "none"), "--config", file)
	if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "note   configuration files") || !strings.Contains(string(out), "run the doctor as root") {
		t.Errorf("who may not read it: %v\n%s", err, out)
	}
}

type finding struct{ Area, What, State, Consequence, Remedy string }

// A sick machine is one on which the doctor is to find something.
type sick struct {
	area string
	// how makes it so for the program that follows it: a script that ends in
	// "$@", in a mount namespace of its own.
	how         string
	what, state string // the finding, by its beginning
}

// without makes a system call fail as on a kernel that does not have it.
func without(call string) string {
	return "exec strace -f -qq -o /dev/null -e trace=" + call + " -e inject=" + call + ":error=ENOSYS \"$@\""
}

// says makes a file of the kernel have another text.
func says(path, text string) string {
	return fmt.Sprintf("echo '%s' >$TMP/file; mount --bind $TMP/file %s; exec \"$@\"", text, path)
}

var sicknesses = []sick{
	{"kernel", without("pidfd_open"), "pidfd_open", "BAD"},
	{"kernel", without("openat2"), "openat2", "BAD"},
	{"kernel", without("fsopen"), "overlay mounts by fsopen", "BAD"},
	{"kernel", without("open_tree"), "detached mounts by open_tree", "BAD"},
	{"kernel", without("mount_setattr"), "mount_setattr", "BAD"},
	{"kernel", without("clone3"), "clone3 with CLONE_INTO_CGROUP", "BAD"},
	{"kernel", says("/proc/sys/kernel/seccomp/actions_avail", "allow"), "seccomp filters", "BAD"},
	{"kernel", says("/proc/sys/user/max_user_namespaces", "0"), "user namespaces", "note"},
	{"kernel", `mount -t tmpfs x /sys/fs/cgroup; mkdir /sys/fs/cgroup/x; touch /sys/fs/cgroup/x/cgroup.events; exec "$@"`, "cgroup.kill", "note"},
	{"security", `exec setpriv --bounding-set -mknod "$@"`, "capabilities", "BAD"},
	{"security", `exec setpriv --bounding-set -sys_resource "$@"`, "CAP_SYS_RESOURCE", "note"},
	{"cgroups", `umount -l -R /sys/fs/cgroup; exec "$@"`, "control groups", "BAD"},
	{"limits", `ulimit -n 1024; exec "$@"`, "open files: at most 1024", "note"},
	{"limits", says("/proc/sys/kernel/pid_max", "1000"), "kernel.pid_max: 1000", "note"},
	{"limits", says("/proc/sys/fs/inotify/max_user_instances", "2"), "fs.inotify.max_user_instances: 2", "note"},
	{"limits", says("/proc/sys/fs/inotify/max_user_watches", "3"), "fs.inotify.max_user_watches: 3", "note"},
	{"limits", says("/proc/sys/kernel/keys/maxkeys", "4"), "kernel.keys.maxkeys: 4", "note"},
	{"directories", `trap 'chmod 700 $ROOT' EXIT; chmod 755 $ROOT; "$@"`, "$ROOT", "BAD"},
	{"directories", `mount --bind $ROOT $ROOT; mount -o remount,bind,ro $ROOT; exec "$@"`, "$ROOT can be written", "BAD"},
	{"directories", `mkdir $TMP/u $TMP/w; mount -t overlay -o lowerdir=$ROOT,upperdir=$TMP/u,workdir=$TMP/w x $ROOT; exec "$@"`, "file system of $ROOT", "BAD"},
	{"directories", `mount -t tmpfs -o size=64k,mode=0700 x $ROOT; head -c 60k /dev/zero >$ROOT/f; exec "$@"`, "4.0 KiB free for images", "note"},
	{"directories", `mount -t tmpfs -o nr_inodes=3,mode=0700 x $ROOT; touch $ROOT/a $ROOT/b; exec "$@"`, "0 inodes free", "note"},
	{"clock", `exec strace -f -qq -o /dev/null -e trace=adjtimex -e inject=adjtimex:retval=5 "$@"`, "clock kept right", "note"},
	{"clock", `exec strace -f -qq -o /dev/null -e trace=adjtimex -e inject=adjtimex:retval=0 "$@"`, "clock kept right", "ok"},
	{"network", `exec setpriv --bounding-set -net_admin "$@"`, "nftables", "BAD"},
	{"network", `exec unshare --net "$@"`, "default route", "note"},
	{"network", `exec unshare --net sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward; exec "$@"' sh "$@"`, "IP forwarding", "note"},
	{"network", says("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"), "IPv6", "note"},
	{"network", `exec "$@" --state $TMP/nobody`, "network of the daemon", "note"},
	{"daemon", `exec "$@" --state $TMP/nobody`, "daemon", "note"},
	{"daemon", `trap 'chmod 600 $STATE/cri-box.sock' EXIT; chmod 666 $STATE/cri-box.sock; "$@"`, "socket of the daemon", "note"},
}

// TestDoctorFinds makes the machine look sick in each way that the doctor knows:
// it is found, with its consequence and what to do, and what is bad ends in code 1.
func TestDoctorFinds(t *testing.T) {
	i := harness.New(t)
	for _, s := range sicknesses {
		vars := []string{"TMP=" + t.TempDir(), "ROOT=" + i.Root, "STATE=" + i.State}
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/bash", "-ec", s.how, "bash",
			harness.CriBox(t), "doctor", "-o", "json", "--config", config(i), "--state", i.State)
		if s.area != "network" { // which has a report of its own when it is asked alone
			cmd.Args = append(cmd.Args, s.area)
		}
		cmd.Env = append(os.Environ(), vars...)
		var out []byte
		i.Node.Do(func() (err error) { out, err = cmd.Output(); return err })
		var findings []finding
		if err := json.Unmarshal(out, &findings); err != nil {
			t.Errorf("%s: %v in %q", s.how, err, out)
			continue
		}
		what := strings.NewReplacer("$ROOT", i.Root).Replace(s.what)
		n := slices.IndexFunc(findings, func(f finding) bool { return f.Area == s.area && strings.HasPrefix(f.What, what) })
		if n < 0 || findings[n].State != s.state || s.state != "ok" && (findings[n].Consequence == "" || findings[n].Remedy == "") {
			t.Errorf("%s: nothing is %s about %s in %+v", s.how, s.state, what, findings)
		}
		if code := cmd.ProcessState.ExitCode(); s.state == "BAD" && code != 1 {
			t.Errorf("%s: code %d", s.how, code)
		}
	}
}

// TestDoctorOfAWaitingNode: without the cluster's network, and after a change that
// is refused, the daemon says so and the doctor passes it on.
func TestDoctorOfAWaitingNode(t *testing.T) {
	i := harness.New(t, harness.Config("network.mode = 'cni'"))
	find := func(area, what, state string) func() bool {
		return func() bool {
			var findings []finding
			r := cli(i, "doctor", "-o", "json")
			if err := json.Unmarshal([]byte(r.out), &findings); err != nil {
				t.Fatalf("%v in %+v", err, r)
			}
			return slices.ContainsFunc(findings, func(f finding) bool {
				return f.Area == area && strings.HasPrefix(f.What, what) && f.State == state && f.Consequence != "" && f.Remedy != ""
			})
		}
	}
	for area, what := range map[string]string{"network": "network: cni serves (mode cni)", "daemon": "NetworkReady"} {
		if !find(area, what, "BAD")() {
			t.Errorf("%s is not bad", what)
		}
	}
	if r := cli(i, "doctor", "network"); !strings.Contains(r.out, "ready     no") {
		t.Errorf("the doctor says of the network\n%s%s", r.out, r.err)
	}
	if err := os.WriteFile(filepath.Join(i.Dir, "config.toml"), []byte("nonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(i.PID(), syscall.SIGHUP)
	i.Wait("the doctor to see that the change was refused", find("daemon", "configuration", "note"))
}
