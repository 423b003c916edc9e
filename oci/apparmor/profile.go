package apparmor

import (
	"os"
	"path/filepath"
	"strings"
)

// rules are what a container may do besides what its own capabilities, namespaces
// and seccomp filter already bound: no mounts, no writes to what of /proc and /sys
// is the node's, signals and traces only among its own kind. %DEFAULT% is its name.
const rules = `
profile %DEFAULT% flags=(attach_disconnected, mediate_deleted) {
%BASE%
  capability,
  file,
  network,
  umount,

  # Whoever stops a container is outside of it.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=%DEFAULT%,
  ptrace (trace, tracedby, read, readby) peer=%DEFAULT%,

  deny mount,

  # Of /proc what belongs to processes may be written, and the sysctls of System V
  # shared memory.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  # Of /sys control groups alone.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`

// text is the profile's source; dir is where the parser looks for what it
// includes, which not every system has. The rules are written for the features
// of AppArmor 3.0: later ones, such as rules on user namespaces, are not asked for.
func text(dir string) string {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	head, base := "", ""
	if has("abi/3.0") {
		head += "abi <abi/3.0>,\n"
	}
	if has("tunables/global") {
		head += "include <tunables/global>\n"
	} else {
		head += "@{PROC}=/proc/\n"
	}
	if has("abstractions/base") {
		base = "  include <abstractions/base>\n"
	}
	return head + strings.NewReplacer("%DEFAULT%", Default, "%BASE%", base).Replace(rules)
}
