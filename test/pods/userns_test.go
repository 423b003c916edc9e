package pods_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// idRange is a pod's range of ids from that of the host on, as the kubelet gives
// one to each pod.
func idRange(host uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{HostId: host, ContainerId: 0, Length: 65536}}
}

// users gives a pod a user namespace with such a range, groups from 1,000,000
// further on, so that one taken for the other shows.
func users(host uint32) harness.PodOption {
	return func(c *runtimeapi.PodSandboxConfig) {
		o := c.Linux.SecurityContext.NamespaceOptions
		o.UsernsOptions = &runtimeapi.UserNamespace{Mode: modePod, Uids: idRange(host), Gids: idRange(host + groupsFrom)}
	}
}

const groupsFrom = 1_000_000

// owner reads who owns a file of the host.
func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	u, g := owner(t, path)
	equal(t, "owner of "+path, fmt.Sprint(u, ":", g), fmt.Sprint(uid, ":", gid))
}

// statusLine reads a line of /proc/PID/status on the host.
func statusLine(t *testing.T, pid int, key string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	t.Fatalf("process %d has no %s", pid, key)
	return ""
}

// upper is the writable layer of a container.
func upper(i *harness.Instance, c *harness.Container, path string) string {
	return filepath.Join(i.Root, "containers", c.ID, "upper", path)
}

// TestUserNamespaceProbe looks from inside: the process is root with the usual
// rights, in a user namespace that owns all its others.
func TestUserNamespaceProbe(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(users(200000))
	c := pod.Run("probe", i.Image(probe), []string{"/bin/probe"})
	equal(t, "exit code", c.WaitExit().ExitCode, 0)
	s := parse(t, c.Output("stdout"))
	checkAlways(t, s)
	equal(t, "uid_map", s.View.UIDMap, "0 200000 65536")
	equal(t, "ids", fmt.Sprint(s.IDs.UIDs, s.IDs.GIDs, s.IDs.Groups), "[0 0 0 0] [0 0 0 0] [0]")
	equal(t, "capabilities", fmt.Sprint(s.Caps.Permitted, s.Caps.Effective, s.Caps.Bounding, s.Caps.Inheritable), fmt.Sprint(defaultCaps, defaultCaps, defaultCaps, noCaps))
	equal(t, "securebits", s.Security.Securebits, 0)
	for _, kind := range []string{"user", "net", "ipc", "uts", "pid", "mnt", "cgroup"} {
		if s.Namespaces[kind] == kind+":["+here(kind)+"]" || s.Namespaces[kind] == here(kind) {
			t.Errorf("the %s namespace is the node's", kind)
		}
	}
	for _, n := range s.Dev {
		if n.Dev == "" || n.Name == "console" || strings.HasPrefix(n.Name, "pts/") {
			continue
		}
		equal(t, "owner of /dev/"+n.Name, fmt.Sprint(n.UID, ":", n.GID), "0:0")
	}
}

// TestUserNamespaceOnTheHost looks from outside: root in the pod is nobody there.
func TestUserNamespaceOnTheHost(t *testing.T) {
	i := harness.New(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := i.RunPod(users(200000))
	c := pod.Run("c", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: secret, ContainerPath: "/secret"}}
	})
	equal(t, "user on the host", statusLine(t, c.PID(), "Uid"), "200000 200000 200000 200000")
	equal(t, "group on the host", statusLine(t, c.PID(), "Gid"), "1200000 1200000 1200000 1200000")
	equal(t, "code of a read of the host's file", exec(t, c, 0, "/bin/cat", "/secret").Code, 1)
	equal(t, "its owner inside", c.MustExec("/bin/stat", "-c", "%u:%g", "/secret"), "65534:65534\n")

	c.MustExec("/bin/sh", "-c", "echo made >/root-file; mkdir /dir; chown 1000:1001 /dir; echo >>/etc/passwd")
	wantOwner(t, upper(i, c, "root-file"), 200000, 1200000)
	wantOwner(t, upper(i, c, "dir"), 201000, 1201001)
	wantOwner(t, upper(i, c, "etc/passwd"), 200000, 1200000)
	wantOwner(t, upper(i, c, ""), 200000, 1200000)
	for _, path := range []string{"/", "/etc", "/bin/busybox", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/dev/shm", "/dev/mqueue", "/root-file"} {
		equal(t, "owner inside of "+path, c.MustExec("/bin/stat", "-c", "%u:%g", path), "0:0\n")
	}
	c.MustExec("/bin/sh", "-c", "echo 127.0.0.2 me >>/etc/hosts; echo x >/dev/shm/x; echo out >/dev/stdout")

	nonroot := pod.Run("nonroot", i.Image(busybox), []string{"/bin/sh", "-c", "echo to a name >/dev/stdout; exec /bin/workload sleep-forever"},
		security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 1001}
		}))
	nonroot.WaitOutput("to a name")
	equal(t, "user on the host", statusLine(t, nonroot.PID(), "Uid"), "201000 201000 201000 201000")
	equal(t, "its exec", nonroot.MustExec("/bin/sh", "-c", "echo $(id -u):$(id -g) >/dev/stderr; echo $(id -u) >/dev/stdout"), "1000\n")
}

// TestUserNamespacesDiffer: two pods with ranges of their own, two containers of
// one pod in the same.
func TestUserNamespacesDiffer(t *testing.T) {
	i := harness.New(t)
	first, second := i.RunPod(users(200000)), i.RunPod(users(300000))
	a, b, other := box(t, first), first.Run("b", i.Image(busybox), sleeper), box(t, second)
	equal(t, "user namespace of the same pod", harness.Namespace(b.PID(), "user"), harness.Namespace(a.PID(), "user"))
	if harness.Namespace(other.PID(), "user") == harness.Namespace(a.PID(), "user") {
		t.Error("two pods have one user namespace")
	}
	equal(t, "map of the other", strings.Join(strings.Fields(other.MustExec("/bin/cat", "/proc/self/uid_map")), " "), "0 300000 65536")
	equal(t, "exec's user namespace", a.MustExec("/bin/readlink", "/proc/self/ns/user"), a.MustExec("/bin/readlink", "/proc/1/ns/user"))
	equal(t, "user of the other", statusLine(t, other.PID(), "Uid"), "300000 300000 300000 300000")
}

// TestUserNamespaceOwns: the pod's network and IPC are its root's to set up, and
// sysctls were set in them.
func TestUserNamespaceOwns(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(users(200000), func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20", "net.ipv4.conf.eth0.arp_ignore": "2"}
	})
	c := pod.Run("c", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_ADMIN"}}
		s.MaskedPaths, s.ReadonlyPaths = []string{"/proc/keys", "/sys/firmware"}, []string{"/proc/sys"}
	}), withAppArmor(runtimeapi.SecurityProfile_Unconfined, "")) // whose default lets nobody mount
	for path, want := range map[string]string{"net/ipv4/ip_forward": "1", "kernel/shm_rmid_forced": "1", "fs/mqueue/msg_max": "20",
		"net/ipv4/conf/eth0/arp_ignore": "2", "net/ipv4/ip_unprivileged_port_start": "0"} {
		equal(t, path, strings.TrimSpace(c.MustExec("/bin/cat", "/proc/sys/"+path)), want)
	}
	c.MustExec("/bin/ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	c.MustExec("/bin/sh", "-c", "mkdir /m && mount -t tmpfs none /m && echo x >/m/x")
	for _, covered := range []string{"/proc/keys", "/sys/firmware", "/proc/sys", "/proc", "/dev"} {
		if r := exec(t, c, 0, "/bin/umount", covered); r.Code == 0 {
			t.Errorf("what is on %s could be taken off from inside", covered)
		}
	}
	for _, change := range []string{"mount -o remount,rw,bind /proc/sys", "hostname other-node; mount -t sysfs none /m && echo 1 >/m/kernel/mm/ksm/run"} {
		if r := exec(t, c, 0, "/bin/sh", "-c", change); r.Code == 0 {
			t.Errorf("%q went well", change)
		}
	}
	pid := c.PID()
	net, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if ns := harness.Namespace(pid, "user"); !strings.Contains(ns, fmt.Sprint(st.Ino)) {
		t.Errorf("the network belongs to user namespace %d, the container is in %s", st.Ino, ns)
	}
}

// TestUserNamespaceVolumes: with mappings root's files are root's in the pod and
// on disk; what a file system cannot do is refused by name.
func TestUserNamespaceVolumes(t *testing.T) {
	i := harness.New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "roots"), []byte("root only"), 0o600); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(t.TempDir(), "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	pod := i.RunPod(users(200000))
	mapped := func(host, path string) *runtimeapi.Mount {
		return &runtimeapi.Mount{HostPath: host, ContainerPath: path, UidMappings: idRange(200000), GidMappings: idRange(200000 + groupsFrom)}
	}
	c := pod.Run("c", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{mapped(dir, "/data"), mapped(inner, "/data/below/inner"),
			{HostPath: inner, ContainerPath: "/other", UidMappings: idRange(201000), GidMappings: idRange(200000 + groupsFrom)}}
	})
	equal(t, "root's file", c.MustExec("/bin/cat", "/data/roots"), "root only")
	c.MustExec("/bin/sh", "-c", "echo x >/data/made; mkdir /data/dir; chown 1000:1001 /data/dir; echo y >/data/below/inner/y")
	wantOwner(t, filepath.Join(dir, "made"), 0, 0)
	wantOwner(t, filepath.Join(dir, "dir"), 1000, 1001)
	wantOwner(t, filepath.Join(dir, "below"), 0, 0)
	wantOwner(t, filepath.Join(inner, "y"), 0, 0)
	equal(t, "owner with other mappings", c.MustExec("/bin/stat", "-c", "%u:%g", "/other/y"), "1000:0\n")

	_, err := pod.TryCreate(pod.ContainerConfig("refused", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{mapped("/sys/kernel", "/m")}
	}))
	checkRefused(t, "a file system that cannot", `host_path "/sys/kernel"`, err)
	checkRefused(t, "a file system that cannot", "does not support id-mapped mounts", err)
	_, err = pod.TryCreate(pod.ContainerConfig("shared", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/m", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	}))
	checkRefused(t, "what could not propagate", "mounts[0].propagation BIDIRECTIONAL", err)
	plain := i.RunPod().Run("c", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{mapped(dir, "/data")} })
	equal(t, "owner without a user namespace", plain.MustExec("/bin/stat", "-c", "%u:%g", "/data/roots"), "200000:1200000\n")
}

// TestUserNamespaceImages: an image is mounted with the pod's ids.
func TestUserNamespaceImages(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(users(200000))
	volume := i.Pull(i.Push("volume", imageWithFile(t)))
	c := pod.Run("c", i.Image(busybox), sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", Readonly: true, Image: &runtimeapi.ImageSpec{Image: volume}},
			{ContainerPath: "/w", Readonly: true, Image: &runtimeapi.ImageSpec{Image: volume}, ImageSubPath: "data"}}
	})
	for _, m := range c.Config.Mounts {
		file := strings.Replace(m.ContainerPath+"/data/file", "w/data", "w", 1)
		equal(t, file, c.MustExec("/bin/cat", file), "in the image")
		equal(t, "owners of "+file, c.MustExec("/bin/stat", "-c", "%u:%g", file, m.ContainerPath), "0:0\n0:0\n")
	}
}

// TestUserNamespaceSharedPID: the pod's init is in it too, and a container with
// CAP_SYS_PTRACE sees in it, and in an exec, nothing of the host.
func TestUserNamespaceSharedPID(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modePod, modePod, modePod), users(200000))
	a, b := box(t, pod), pod.Run("b", i.Image(probe), sleeper)
	init := harness.Init(a.PID())
	equal(t, "user of the init on the host", statusLine(t, init, "Uid"), "200000 200000 200000 200000")
	equal(t, "user namespace of the init", harness.Namespace(init, "user"), harness.Namespace(a.PID(), "user"))
	equal(t, "pid namespace of the second", harness.Namespace(b.PID(), "pid"), harness.Namespace(a.PID(), "pid"))
	equal(t, "exec", a.MustExec("/bin/sh", "-c", "id -u"), "0\n")
	debug := pod.Run("debug", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: a.ID}
	}))
	equal(t, "user namespace of what debugs", harness.Namespace(debug.PID(), "user"), harness.Namespace(a.PID(), "user"))
}

// TestUserNamespaceOnTheNodesNetwork: the network stays the node's, and what root
// in the pod may do to it is nothing.
func TestUserNamespaceOnTheNodesNetwork(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(namespaces(modeNode, modeContainer, modePod), users(200000))
	c := pod.Run("c", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	}))
	node, err := i.Node.Inode()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "net", harness.Namespace(c.PID(), "net"), node)
	equal(t, "user on the host", statusLine(t, c.PID(), "Uid"), "200000 200000 200000 200000")
	if r := exec(t, c, 0, "/bin/ip", "addr", "add", "192.0.2.1/32", "dev", "lo"); r.Code == 0 {
		t.Error("root in the pod changed the node's network")
	}
}

// TestUserNamespaceRefuses: each is an InvalidArgument that names the field.
func TestUserNamespaceRefuses(t *testing.T) {
	i := harness.New(t)
	ids := idRange(200000)
	for _, bad := range []struct {
		words string
		o     *runtimeapi.UserNamespace
	}{
		{"userns_options.mode CONTAINER", &runtimeapi.UserNamespace{Mode: modeContainer}},
		{"userns_options.mode TARGET", &runtimeapi.UserNamespace{Mode: modeTarget}},
		{"userns_options: mode NODE has no uids", &runtimeapi.UserNamespace{Mode: modeNode, Uids: ids, Gids: ids}},
		{"userns_options.gids has 0 mappings", &runtimeapi.UserNamespace{Mode: modePod, Uids: ids}},
		{"uids[0] and [1] overlap", &runtimeapi.UserNamespace{Mode: modePod, Uids: append(idRange(500000), ids...), Gids: ids}},
		{"uids does not map container_id 0", &runtimeapi.UserNamespace{Mode: modePod, Uids: []*runtimeapi.IDMapping{{HostId: 1, ContainerId: 1, Length: 1}}, Gids: ids}},
		{"uids[0]: length 0", &runtimeapi.UserNamespace{Mode: modePod, Uids: []*runtimeapi.IDMapping{{HostId: 1}}, Gids: ids}},
		{"uids[0]: length 4294967295", &runtimeapi.UserNamespace{Mode: modePod, Uids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1<<32 - 1}}, Gids: ids}},
	} {
		_, err := i.TryRunPod(i.PodConfig(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = bad.o }))
		checkRefused(t, bad.o.String(), bad.words, err)
	}
	pod, plain := i.RunPod(users(200000)), i.RunPod()
	for words, change := range map[string]func(*runtimeapi.LinuxContainerSecurityContext){
		"user 65536 is not in the pod's user namespace":  func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 65536} },
		"group 70000 is not in the pod's user namespace": func(s *runtimeapi.LinuxContainerSecurityContext) { s.SupplementalGroups = []int64{70000} },
		"mode NODE is not that of the pod": func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeContainer, UsernsOptions: &runtimeapi.UserNamespace{Mode: modeNode}}
		},
		"uids and gids are not those of the pod": func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeContainer, UsernsOptions: &runtimeapi.UserNamespace{Mode: modePod, Uids: ids, Gids: ids}}
		},
	} {
		_, err := pod.TryCreate(pod.ContainerConfig("c", i.Image(busybox), sleeper, security(change)))
		checkRefused(t, words, words, err)
	}
	_, err := plain.TryCreate(plain.ContainerConfig("c", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeContainer, UsernsOptions: &runtimeapi.UserNamespace{Mode: modePod}}
	})))
	checkRefused(t, "POD in a pod without", "the pod has no user namespace", err)
	i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: modeNode}
	})
}

// TestUserNamespaceDevices: a privileged pod has the host's nodes, but their
// owners are not its own: what only root may open stays closed.
func TestUserNamespaceDevices(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(users(200000), func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := pod.Run("c", i.Image(busybox), sleeper, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
	closed := 0
	for line := range strings.Lines(c.MustExec("/bin/sh", "-c", "find /dev -type c -o -type b | xargs stat -c '%n %u %a'")) {
		var name, mode string
		var uid int
		fmt.Sscan(line, &name, &uid, &mode)
		host, err := os.Stat(name)
		if err != nil || host.Mode().Perm()&0o006 != 0 || strings.HasPrefix(name, "/dev/pts") || name == "/dev/console" {
			continue
		}
		closed++
		equal(t, "owner of "+name, uid, 65534)
		if r := exec(t, c, 0, "/bin/sh", "-c", "exec 3<"+name); r.Code == 0 {
			t.Errorf("root in the pod opened %s", name)
		}
	}
	if closed == 0 {
		t.Skip("this machine has no device that is root's alone")
	}
}

// TestUserNamespaceSurvives: another daemon, another keeper, the same namespace.
func TestUserNamespaceSurvives(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(users(200000))
	c := box(t, pod)
	created := pod.Create("created", i.Image(busybox), sleeper)
	ns := harness.Namespace(c.PID(), "user")
	i.Restart()
	created.Start()
	old := i.KillKeeper()
	i.Wait("another keeper", func() bool { k := i.Keeper(); return k != 0 && k != old })
	late := pod.Run("late", i.Image(busybox), sleeper)
	for name, c := range map[string]*harness.Container{"first": c, "created before": created, "late": late} {
		equal(t, name+": user namespace", harness.Namespace(c.PID(), "user"), ns)
		equal(t, name+": exec", c.MustExec("/bin/id", "-u"), "0\n")
	}
	equal(t, "user on the host", statusLine(t, created.PID(), "Uid"), "200000 200000 200000 200000")
}

// TestUserNamespaceHidesHalfMadeProcesses: CAP_SYS_PTRACE in a user namespace
// reaches no process that has not executed its program: until then its memory is
// the host's (ptrace(2), "dumpable").
func TestUserNamespaceHidesHalfMadeProcesses(t *testing.T) {
	i := harness.New(t, harness.Env("CRIBOX_SECRET="+foreign))
	pod := i.RunPod(namespaces(modePod, modePod, modePod), users(200000))
	hunter := startHunter(t, pod, i.Image(probe))
	for range huntedExecs / 10 {
		if r, err := hunter.Exec(20*time.Second, "workload", "exit", "0"); err != nil || r.Code != 0 {
			t.Fatalf("a hunted command: code %d, %v", r.Code, err)
		}
	}
	equal(t, "half-made processes", hunted(t, hunter), "caught 0")
}
