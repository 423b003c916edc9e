package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/oci/apparmor"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/spec"
	"golang.org/x/sys/unix"
)

// lookKernel tries what the runtime is built on.
func lookKernel() []finding {
	var u unix.Utsname
	unix.Uname(&u)
	list := []finding{{What: "Linux " + unix.ByteSliceToString(u.Release[:]), State: good}}
	for _, f := range facilities() {
		list = append(list, f.look())
	}
	n, ok := readNumber("/proc/sys/user/max_user_namespaces")
	return append(list, check(ok && n > 0, "user namespaces", note, "pods with hostUsers: false cannot start", "set the sysctl user.max_user_namespaces above 0"))
}

func closing(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// needed are the capabilities without which the daemon cannot work.
var needed = []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"}

// lookSecurity looks at what we may, and what keeps containers in.
func lookSecurity() []finding {
	var mask uint64
	_, after, _ := strings.Cut(readText("/proc/self/status"), "CapEff:")
	fmt.Sscanf(strings.TrimSpace(after), "%x", &mask)
	have := spec.CapabilityNames(mask)
	var missing []string
	for _, name := range needed {
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	lsm := readText("/sys/kernel/security/lsm")
	list := []finding{
		check(needRoot() == nil, "root", bad, "no pod and no image: the daemon works as the machine's own root only", "use sudo, or a unit of the system"),
		check(len(missing) == 0, "capabilities", bad, "missing: "+strings.Join(missing, ", "), "run the daemon with all capabilities, outside containers"),
		check(slices.Contains(have, "CAP_SYS_RESOURCE"), "CAP_SYS_RESOURCE", note,
			"an oom_score_adj below our own and limits above our own cannot be given to containers", "run the daemon with all capabilities"),
		check(apparmor.Active(), "AppArmor", note, "a pod that asks for an AppArmor profile is refused", "boot with apparmor=1 security=apparmor if you need it"),
	}
	if apparmor.Active() {
		list = append(list, check(apparmor.CanLoad() == nil, "apparmor_parser", note,
			"containers have no default AppArmor profile, and those that ask for RuntimeDefault are refused", "install the package apparmor"))
	}
	if lsm != "" {
		list = append(list, finding{What: "security modules: " + lsm, State: good})
	}
	return list
}

func lookCgroups() []finding {
	groups, err := cgroup.Detect()
	if err != nil {
		return []finding{{What: "control groups", State: bad, Consequence: err.Error(), Remedy: "mount cgroup2 on /sys/fs/cgroup, as systemd does"}}
	}
	list := []finding{check(groups.Mode == cgroup.V2, "control groups: "+string(groups.Mode), note,
		"kubelet 1.35 and later refuse to start without cgroup v2 unless failCgroupV1 is false", "boot with systemd.unified_cgroup_hierarchy=1")}
	for _, controller := range []string{"cpu", "memory", "pids", "cpuset"} {
		list = append(list, check(groups.Has(controller), "controller "+controller, bad, "limits of "+controller+" cannot be set: containers that have one are refused",
			"boot with cgroup_enable="+controller+", or see which hierarchy has taken it"))
	}
	return append(list, check(groups.Has("hugetlb"), "controller hugetlb", note, "pods cannot be limited in huge pages", "use a kernel with CONFIG_CGROUP_HUGETLB"))
}

func lookLimits() []finding {
	var files unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	list := []finding{check(err == nil && files.Max >= 65536, fmt.Sprintf("open files: at most %d", files.Max), note,
		"a container takes 6 to 10 descriptors of the keeper", "LimitNOFILE=1048576 in the unit")}
	for _, l := range []struct {
		path, what, consequence string
		least                   int64
	}{
		{"/proc/sys/kernel/pid_max", "kernel.pid_max", "the node runs out of process ids with a few hundred busy pods", 65536},
		{"/proc/sys/fs/inotify/max_user_instances", "fs.inotify.max_user_instances", "programs that watch files fail with \"too many open files\" in many pods at a time", 1024},
		{"/proc/sys/fs/inotify/max_user_watches", "fs.inotify.max_user_watches", "programs that watch files fail with \"no space left on device\"", 65536},
		{"/proc/sys/kernel/keys/maxkeys", "kernel.keys.maxkeys", "containers of one user cannot have a keyring each", 200},
	} {
		n, ok := readNumber(l.path)
		list = append(list, check(ok && n >= l.least, fmt.Sprintf("%s: %d", l.what, n), note, l.consequence, fmt.Sprintf("sysctl -w %s=%d", l.what, l.least*4)))
	}
	return list
}

func lookClock() []finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	const timeError = 5 // TIME_ERROR, adjtimex(2): nobody keeps the clock right
	return []finding{check(err == nil && state != timeError, "clock kept right", note,
		"certificates may seem not yet or no longer valid, and the times in logs are off", "run chrony or systemd-timesyncd")}
}
