package critest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type securityContext = runtimeapi.LinuxContainerSecurityContext

func id(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

// processStatus gives a line of /proc/PID/status.
func processStatus(field string) string {
	return "awk '$1 == \"" + field + ":\" { $1 = \"\"; print substr($0, 2) }' /proc/1/status"
}

func TestRunAsUser(t *testing.T) {
	clause(t, "UID to run the container process as. Only one of run_as_user and")
	n := newNode(t)
	p := n.pod()
	c := p.run(security(func(s *securityContext) { s.RunAsUser = id(1234) }))
	equal(t, "uids", c.sh(processStatus("Uid")), "1234 1234 1234 1234")
	equal(t, "user of an exec", c.sh("id -u"), "1234")
	equal(t, "uid in the status", c.status().GetUser().GetLinux().GetUid(), 1234)
	_, err := p.try(security(func(s *securityContext) { s.RunAsUser, s.RunAsUsername = id(1), "root" }))
	refused(t, "run_as_user and run_as_username", err)
	_, err = p.try(security(func(s *securityContext) { s.RunAsUser = id(-1) }))
	strict(t, "run_as_user -1", err)
}

func TestRunAsGroup(t *testing.T) {
	clause(t, "run_as_group should only be specified when run_as_user or run_as_username is specified; otherwise, the runtime MUST error.")
	n := newNode(t)
	p := n.pod()
	c := p.run(security(func(s *securityContext) { s.RunAsUser, s.RunAsGroup = id(1234), id(4321) }))
	equal(t, "gids", c.sh(processStatus("Gid")), "4321 4321 4321 4321")
	equal(t, "gid in the status", c.status().GetUser().GetLinux().GetGid(), 4321)
	_, err := p.try(security(func(s *securityContext) { s.RunAsGroup = id(4321) }))
	refused(t, "run_as_group alone", err)
}

// TestRunAsUsername: daemon (1) or, in images without it, the name of uid 0.
func TestRunAsUsername(t *testing.T) {
	clause(t, "User name to run the container process as. If specified, the user MUST")
	n := newNode(t)
	p := n.pod()
	name, uid, _ := strings.Cut(p.look("tail -n 1 /etc/passwd | cut -d: -f1,3"), ":")
	c := p.run(security(func(s *securityContext) { s.RunAsUsername = name }))
	equal(t, "uids", c.sh(processStatus("Uid")), strings.Join([]string{uid, uid, uid, uid}, " "))
	_, err := p.try(security(func(s *securityContext) { s.RunAsUsername = "nobody-has-this-name" }))
	refused(t, "a name that is not in the image", err, "nobody-has-this-name")
}

func TestSupplementalGroups(t *testing.T) {
	clause(t, "List of groups applied to the first process run in each container.")
	n := newNode(t)
	p := n.pod()
	for policy, name := range runtimeapi.SupplementalGroupsPolicy_name {
		c := p.run(security(func(s *securityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = id(1000), id(1000), []int64{2345, 2346}
			s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy(policy)
		}))
		equal(t, name+" groups", c.sh(processStatus("Groups")), "1000 2345 2346")
		equal(t, name+" groups of an exec", c.sh("id -G"), "1000 2345 2346")
		equal(t, name+" groups in the status", fmt.Sprint(c.status().GetUser().GetLinux().GetSupplementalGroups()), "[1000 2345 2346]")
	}
	_, err := p.try(security(func(s *securityContext) { s.SupplementalGroupsPolicy = 7 }))
	strict(t, "a policy that is none", err)
}

func TestCapabilities(t *testing.T) {
	clause(t, "Capability contains the container capabilities to add or drop")
	n := newNode(t)
	p := n.pod()
	const netAdmin, netRaw, chown = 12, 13, 0
	effective := func(c *container, set string) (bits uint64) {
		fmt.Sscanf(c.sh(processStatus(set)), "%x", &bits)
		return bits
	}
	c := p.run(security(func(s *securityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"NET_RAW"}}
	}))
	got := effective(c, "CapEff")
	if got&(1<<netAdmin) == 0 || got&(1<<netRaw) != 0 || got&(1<<chown) == 0 {
		t.Errorf("with NET_ADMIN, without NET_RAW: %016x", got)
	}
	none := p.run(security(func(s *securityContext) { s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}} }))
	equal(t, "without ALL", effective(none, "CapBnd"), 0)
	ambient, err := p.try(security(func(s *securityContext) {
		s.RunAsUser = id(1000)
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ambient", effective(ambient, "CapAmb"), 1<<netAdmin)
	equal(t, "effective of uid 1000", effective(ambient, "CapEff"), 1<<netAdmin)
	_, err = p.try(security(func(s *securityContext) { s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}} }))
	strict(t, "a capability that is none", err, "FLY")
}

func TestNoNewPrivs(t *testing.T) {
	clause(t, "no_new_privs defines if the flag for no_new_privs should be set on the")
	n := newNode(t)
	for _, on := range []bool{false, true} {
		c := n.pod().run(security(func(s *securityContext) { s.NoNewPrivs = on }))
		equal(t, fmt.Sprint("no_new_privs of ", on), c.sh(processStatus("NoNewPrivs")) == "1", on)
	}
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	clause(t, "masked_paths is a slice of paths that should be masked by the container")
	n := newNode(t)
	c := n.pod().run(security(func(s *securityContext) {
		s.MaskedPaths, s.ReadonlyPaths = []string{"/etc/passwd", "/bin/../usr", "/not/there"}, []string{"/tmp"}
	}))
	equal(t, "size of a masked file", c.sh("wc -c </etc/passwd"), "0")
	if out, code := c.exec("touch /tmp/x 2>&1"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing a read-only path ended with %d: %s", code, out)
	}
	bare := n.pod().run()
	bare.sh("test -s /etc/passwd && touch /tmp/x")
}

func TestReadonlyRootfs(t *testing.T) {
	clause(t, "If set, the root filesystem of the container is read-only.")
	n := newNode(t)
	c := n.pod().run(security(func(s *securityContext) { s.ReadonlyRootfs = true }))
	if out, code := c.exec("touch /x 2>&1"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing ended with %d: %s", code, out)
	}
	n.pod().run().sh("touch /x")
}

func TestPrivileged(t *testing.T) {
	clause(t, "1. All capabilities are added.")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := p.run(security(func(s *securityContext) {
		s.Privileged, s.MaskedPaths = true, []string{"/etc/passwd"}
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}))
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(own), "CapBnd:\t")
	equal(t, "capabilities", c.sh(processStatus("CapEff")), rest[:16])
	equal(t, "seccomp", c.sh(processStatus("Seccomp")), "0")
	c.sh("test -s /etc/passwd && mount -t tmpfs none /mnt 2>/dev/null || mkdir /m && mount -t tmpfs none /m")
	if got := c.options("/sys"); !strings.Contains(got, ",rw,") {
		t.Errorf("/sys has %s", got)
	}
	if _, err := os.Stat("/dev/loop-control"); err == nil {
		c.sh("test -c /dev/loop-control") // the host's devices are there
	}
	_, err = n.pod().try(security(func(s *securityContext) { s.Privileged = true }))
	refused(t, "a privileged container in a pod that is not", err, "privileged")
}

func TestDevices(t *testing.T) {
	clause(t, "Cgroups permissions of the device, candidates are one or more of")
	n := newNode(t)
	p := n.pod()
	device := func(host, path, permissions string) containerOption {
		return func(c *runtimeapi.ContainerConfig) {
			c.Devices = append(c.Devices, &runtimeapi.Device{HostPath: host, ContainerPath: path, Permissions: permissions})
		}
	}
	// 1:11 is kmsg, which no container has by default; opening it does nothing.
	for permissions, writes := range map[string]bool{"w": true, "r": false} {
		c := p.run(device("/dev/kmsg", "/dev/other", permissions))
		equal(t, "device number", c.sh("stat -c %t:%T /dev/other"), "1:b")
		_, code := c.exec(": >/dev/other")
		equal(t, "writing with permissions "+permissions, code == 0, writes)
	}
	_, err := p.try(device("/dev/not-there", "/dev/x", "rwm"))
	refused(t, "a device that is not there", err, "/dev/not-there")
	_, err = p.try(device("/dev/kmsg", "/dev/x", "rx"))
	strict(t, "permissions rx", err, "permissions")
}

// forbidMkdir is a seccomp profile with one rule.
func (n *node) forbidMkdir() string {
	n.Helper()
	text, err := json.Marshal(map[string]any{"defaultAction": "SCMP_ACT_ALLOW",
		"syscalls": []any{map[string]any{"names": []string{"mkdir", "mkdirat"}, "action": "SCMP_ACT_ERRNO"}}})
	if err != nil {
		n.Fatal(err)
	}
	path := filepath.Join(n.dir, "profile.json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		n.Fatal(err)
	}
	return path
}

func TestSeccomp(t *testing.T) {
	clause(t, "Indicator which `ProfileType` should be applied.")
	n := newNode(t)
	p := n.pod()
	with := func(profile *runtimeapi.SecurityProfile) containerOption {
		return security(func(s *securityContext) { s.Seccomp = profile })
	}
	local := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: n.forbidMkdir()}
	for what, c := range map[string]struct {
		profile *runtimeapi.SecurityProfile
		mode    string
	}{
		"none":           {nil, "0"},
		"Unconfined":     {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, "0"},
		"RuntimeDefault": {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, "2"},
		"Localhost":      {local, "2"},
	} {
		ctr := p.run(with(c.profile))
		equal(t, what+": seccomp mode", ctr.sh(processStatus("Seccomp")), c.mode)
		_, code := ctr.exec("mkdir /made 2>/dev/null")
		equal(t, what+": mkdir fails", code != 0, what == "Localhost")
	}
	_, err := p.try(with(&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(n.dir, "missing.json")}))
	refused(t, "a profile that is not there", err, "missing.json")
	if err := os.WriteFile(filepath.Join(n.dir, "bad.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = p.try(with(&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(n.dir, "bad.json")}))
	refused(t, "a profile that is no JSON", err)
	_, err = p.try(with(&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}))
	refused(t, "Localhost without a path", err)
}

// namespaceOf gives the node's, which is the test's own.
func namespaceOf(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func (n *node) podWith(o *runtimeapi.NamespaceOption) *pod {
	n.Helper()
	return n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = o })
}

// TestNamespaceOptions: every combination of network, ipc and pid.
func TestNamespaceOptions(t *testing.T) {
	clause(t, "Network namespace for this container/sandbox.")
	n := newNode(t)
	podMode, ctrMode, nodeMode := runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE
	for _, network := range []runtimeapi.NamespaceMode{podMode, nodeMode} {
		for _, ipc := range []runtimeapi.NamespaceMode{podMode, nodeMode} {
			for _, pid := range []runtimeapi.NamespaceMode{podMode, ctrMode, nodeMode} {
				o := &runtimeapi.NamespaceOption{Network: network, Ipc: ipc, Pid: pid}
				p := n.podWith(o)
				a, b := p.run(), p.run()
				for kind, mode := range map[string]runtimeapi.NamespaceMode{"ipc": ipc, "pid": pid} {
					mine, other := a.sh("readlink /proc/self/ns/"+kind), b.sh("readlink /proc/self/ns/"+kind)
					equal(t, fmt.Sprint(o, ": the node's ", kind), mine == namespaceOf(t, kind), mode == nodeMode)
					equal(t, fmt.Sprint(o, ": shared ", kind), mine == other, mode != ctrMode)
				}
				same := a.sh("readlink /proc/self/ns/net") == b.sh("readlink /proc/self/ns/net")
				equal(t, fmt.Sprint(o, ": shared net"), same, true)
				got := p.status().GetLinux().GetNamespaces().GetOptions()
				equal(t, "options in the status", fmt.Sprint(got.Network, got.Ipc, got.Pid), fmt.Sprint(network, ipc, pid))
			}
		}
	}
	_, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: ctrMode}
	}))
	strict(t, "network CONTAINER", err, "network")
}

func TestTargetPID(t *testing.T) {
	clause(t, "Target Container ID for NamespaceMode of TARGET.")
	n := newNode(t)
	p := n.pod()
	target := p.run()
	join := func(id string) containerOption {
		return security(func(s *securityContext) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: id}
		})
	}
	c := p.run(join(target.id))
	equal(t, "pid namespace", c.sh("readlink /proc/self/ns/pid"), target.sh("readlink /proc/self/ns/pid"))
	for what, id := range map[string]string{"nothing": "", "what is not there": strings.Repeat("0", 64), "another pod": n.pod().run().id} {
		_, err := p.try(join(id))
		refused(t, "the target "+what, err)
	}
}
