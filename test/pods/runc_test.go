package pods_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/probe/state"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A form is a way to run a process.
type form struct {
	name string
	pod  harness.PodOption
	opt  harness.ContainerOption
	exec bool // the probe is executed in a running container
}

var forms = []form{
	{name: "default"},
	{name: "non-root", opt: func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		c.Linux.SecurityContext.SupplementalGroups = []int64{2000}
		c.Linux.SecurityContext.NoNewPrivs = true
		c.WorkingDir = "/tmp"
	}},
	{name: "privileged", pod: func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true },
		opt: security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true })},
	{name: "tty", opt: func(c *runtimeapi.ContainerConfig) { c.Tty = true }},
	{name: "exec", exec: true},
	{name: "userns", pod: func(c *runtimeapi.PodSandboxConfig) {
		ids := []*runtimeapi.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: modePod, Uids: ids, Gids: ids}
	}},
	{name: "hostNetwork", pod: namespaces(modeNode, modeContainer, modePod)},
}

// A difference between cri-box and runc that is meant, by the flattened name of
// what differs.
type difference struct{ what, reason string }

var differences = []difference{
	{`namespaces\.(cgroup|mnt|pid|pid_for_children|user|net|ipc|uts)`, "each container has its own"},
	{`session\.(pid|pgid|sid)`, "which number the exec gets depends on what ran before it"},
	{`session\.keyring(_serial)?`, "runc's has a name, _ses.ID, by which root on the host can join it; ours has none"},
	{`view\.cgroup`, "the name of the group on the host; an exec has one of its own on v2, which ends with its tree"},
	{`files\.0\.(kind|target|flags)`, "without stdin ours is /dev/null and reads its end; runc hands on a pipe of its own"},
	{`files\.[12]\.(target|flags)`, "ours are FIFOs opened for both ways, so that no write fails when nobody reads; or a terminal with one flag more"},
	{`mounts\./\.(fstype|source|root|super_options|options)`, "runc is given a directory for its root, not an overlay"},
	{`mounts\./dev/shm\..*`, "it is the pod's with cri-box; the test gives runc one"},
	{`mounts\./dev\.(options|super_options)`, "runc sets strictatime as the spec has it; ours keeps relatime, and says its size in MiB"},
	{`mounts\./sys/fs/cgroup(/.*)?\..*`, "on hybrid hosts runc shows no v2 hierarchy and leaves the directory of the others writable"},
	{`dev\.core\..*`, "runc leaves /dev/core out where the kernel has no /proc/kcore; ours points nowhere then"},
	{`limits\.NOFILE\.soft`, "runc 1.1 hands its own limit, which Go raised, on to an exec"},
	{`(dev\.|mounts\./dev/)(full|null|random|tty|urandom|zero)\..*`, "with a user namespace runc binds the host's nodes, whose owner is nobody there; ours are nodes of the container's root"},
	{`dev\.(pts|pts/ptmx|mqueue)\.(gid|uid)`, "with a user namespace our devpts, and runc's mqueue, is made outside: its directory belongs to nobody"},
	{`mounts\./sys\.super_options`, "with a user namespace runc mounts sysfs read-only as a whole, ours is read-only as a mount"},
	{`signals\.ignored`, "runc hands on what its caller ignores, such as make; ours ignores none, whoever started serve"},
	{`view\.links`, "with a user namespace runc makes a network namespace of its own, without the pod's interface"},
}

// elsewhere are differences that not every version of runc, or host, has.
var elsewhere = []string{`dev\.core`, `limits\.`, `session\.(pid`, `signals\.ignored`}

// TestSameAsRunc starts the probe with cri-box, and by runc with the very spec
// that cri-box shows for it, in the same pod. What the process sees of itself is
// the same but for what stands in differences.
func TestSameAsRunc(t *testing.T) {
	i := harness.New(t)
	used := map[string]bool{}
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			ours, its := runBoth(t, i, f)
			for _, what := range differing(ours, its) {
				n := slices.IndexFunc(differences, func(d difference) bool { return regexp.MustCompile("^(?:" + d.what + ")$").MatchString(what) })
				if n < 0 {
					t.Errorf("%s: cri-box %v, runc %v", what, ours[what], its[what])
					continue
				}
				used[differences[n].what] = true
			}
		})
	}
	for _, d := range differences {
		if !used[d.what] && !slices.ContainsFunc(elsewhere, func(e string) bool { return strings.HasPrefix(d.what, e) }) {
			t.Errorf("%s does not differ any more (%s)", d.what, d.reason)
		}
	}
}

// runBoth returns what the probe saw as cri-box's process and as runc's.
func runBoth(t *testing.T, i *harness.Instance, f form) (ours, its map[string]any) {
	t.Helper()
	var opts []harness.PodOption
	if f.pod != nil {
		opts = append(opts, f.pod)
	}
	pod := i.RunPod(opts...)
	defer pod.Remove()
	all := []harness.ContainerOption{withSeccomp(runtimeapi.SecurityProfile_RuntimeDefault)}
	if f.opt != nil {
		all = append(all, f.opt)
	}
	r := newRunc(t, i, pod, all...)
	if f.exec {
		c := pod.Run("c", i.Image(probe), sleeper, all...)
		return flat(t, parse(t, c.MustExec("/bin/probe"))), flat(t, r.exec(c))
	}
	c := pod.Run("probe", i.Image(probe), []string{"/bin/probe"}, all...)
	if st := c.WaitExit(); st.ExitCode != 0 {
		t.Fatalf("the probe ended with %d: %s", st.ExitCode, c.Output("stderr"))
	}
	return flat(t, parse(t, c.Output("stdout"))), flat(t, r.run(c))
}

// A runc runs bundles of its own beside the pod's containers.
type runc struct {
	t      *testing.T
	i      *harness.Instance
	dir    string
	id     string
	holder int // a process in the pod's namespaces, which have no path
}

func newRunc(t *testing.T, i *harness.Instance, pod *harness.Pod, opts ...harness.ContainerOption) *runc {
	t.Helper()
	r := &runc{t, i, t.TempDir(), "runc-" + pod.ID[:12], pod.Run("holder", i.Image(probe), sleeper, opts...).PID()}
	root := filepath.Join(r.dir, "rootfs")
	for name, from := range map[string]string{"bin/probe": harness.Probe(t), "bin/workload": harness.Workload(t)} {
		to := filepath.Join(root, name)
		text := readFile(t, from)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "root", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(r.dir, 0o755)
	os.Chmod(filepath.Dir(r.dir), 0o755) // the test's own, for a user namespace to get through
	return r
}

// command is runc itself, in the node's network.
func (r *runc) command(args ...string) *osexec.Cmd {
	return osexec.Command("runc", append([]string{"--root", filepath.Join(r.dir, "state"), "--log", filepath.Join(r.dir, "log")}, args...)...)
}

// bundle writes the container's spec, changed only in what is another's to use.
func (r *runc) bundle(c *harness.Container) *specs.Spec {
	r.t.Helper()
	resp, err := c.Runtime.ContainerStatus(c.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		r.t.Fatal(err)
	}
	var info struct {
		RuntimeSpec *specs.Spec `json:"runtimeSpec"`
	}
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil {
		r.t.Fatal(err)
	}
	s := info.RuntimeSpec
	s.Root.Path = filepath.Join(r.dir, "rootfs")
	s.Linux.CgroupsPath = "/" + r.i.Name + "-" + r.id
	r.replace(s)
	text, err := json.Marshal(s)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "config.json"), text, 0o644); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// replace gives runc what it cannot take from the spec: paths of the pod's
// namespaces and of its shm, both of which are descriptors with cri-box. With a
// user namespace, runc makes all of them itself.
func (r *runc) replace(s *specs.Spec) {
	own := len(s.Linux.UIDMappings) > 0
	if own {
		uid, gid := s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID
		err := filepath.WalkDir(s.Root.Path, func(path string, _ os.DirEntry, _ error) error { return os.Chown(path, int(uid), int(gid)) })
		if err != nil {
			r.t.Fatal(err)
		}
	}
	for n := range s.Linux.Namespaces {
		ns := &s.Linux.Namespaces[n]
		if ns.Path == "" {
			continue
		}
		name := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net"}[ns.Type]
		ns.Path = fmt.Sprintf("/proc/%d/ns/%s", r.holder, cmp.Or(name, string(ns.Type)))
		if own {
			ns.Path = ""
		}
	}
	for n, m := range s.Mounts {
		if m.Destination == "/dev/shm" {
			s.Mounts[n] = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}}
		}
	}
}

// run runs the container's own process by runc.
func (r *runc) run(c *harness.Container) *state.State {
	r.t.Helper()
	s := r.bundle(c)
	cmd := r.command("run", "--bundle", r.dir, r.id)
	return r.output(cmd, s.Process.Terminal)
}

// exec runs the probe by runc exec in a container of runc's.
func (r *runc) exec(c *harness.Container) *state.State {
	r.t.Helper()
	s := r.bundle(c)
	if err := r.inNode(r.command("run", "--detach", "--bundle", r.dir, r.id)); err != nil {
		r.t.Fatalf("runc run: %v\n%s", err, readFile(r.t, filepath.Join(r.dir, "log")))
	}
	defer r.inNode(r.command("delete", "--force", r.id))
	s.Process.Args = []string{"/bin/probe"}
	text, err := json.Marshal(s.Process)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.dir, "process.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		r.t.Fatal(err)
	}
	return r.output(r.command("exec", "--process", file, r.id), false)
}

func (r *runc) inNode(cmd *osexec.Cmd) error {
	if err := r.i.Node.Do(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

// output runs cmd and parses what the probe printed, on a pipe or a terminal.
func (r *runc) output(cmd *osexec.Cmd, terminal bool) *state.State {
	r.t.Helper()
	var out, log bytes.Buffer
	if !terminal {
		cmd.Stdout, cmd.Stderr = &out, &log
		if err := r.inNode(cmd); err != nil {
			r.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, log.String(), out.String())
		}
		return parse(r.t, out.String())
	}
	master, slave := openTerminal(r.t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.ReadFrom(master) // ends with EIO when nobody has the slave any more
	}()
	err := r.inNode(cmd)
	slave.Close()
	<-done
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	return parse(r.t, out.String())
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// flat names every value of a state: "ids.uids", "mounts./proc.options".
func flat(t *testing.T, s *state.State) map[string]any {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	flatten(values, "", tree)
	return values
}

func flatten(to map[string]any, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flatten(to, strings.TrimPrefix(name+"."+k, "."), e)
		}
	case []any:
		for n, e := range v {
			if m, ok := e.(map[string]any); ok { // by what names it
				key := fmt.Sprint(n)
				for _, field := range []string{"target", "name", "fd"} {
					if name := m[field]; name != nil && (field != "target" || m["fd"] == nil) {
						key = fmt.Sprint(name)
					}
				}
				flatten(to, name+"."+key, e)
				continue
			}
			to[name] = fmt.Sprint(v)
		}
	default:
		to[name] = v
	}
}

func differing(a, b map[string]any) []string {
	var list []string
	for _, what := range slices.Sorted(maps.Keys(a)) {
		if fmt.Sprint(a[what]) != fmt.Sprint(b[what]) {
			list = append(list, what)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(b)) {
		if _, both := a[what]; !both {
			list = append(list, what)
		}
	}
	return list
}
