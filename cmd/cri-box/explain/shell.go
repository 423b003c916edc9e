package explain

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A Recipe is what a script needs beside the facts to make a container by hand.
type Recipe struct {
	Pod       *Pod
	Container *Container
	Spec      *specs.Spec
	// Lowers are the directories of the image's layers, the top one first.
	Lowers []string
	// Files are what the runtime wrote for the pod, by their place in the container,
	// such as /etc/hosts.
	Files map[string]string
}

// known are the variables whose values may be shown: others are often secrets.
var known = []string{"PATH", "HOME", "HOSTNAME", "TERM"}

// A script is written in two halves: what is done on the node, and what is done by
// the process that becomes the container.
type script struct {
	*Recipe
	b strings.Builder
}

// Shell writes a script that makes the container by hand.
func (r *Recipe) Shell(w io.Writer) error {
	s := &script{Recipe: r}
	s.head()
	s.ration()
	if r.Pod.NetNS != "" {
		s.cable()
	}
	s.outside()
	s.inside()
	_, err := io.WriteString(w, s.b.String())
	return err
}

func (s *script) line(format string, args ...any) { fmt.Fprintf(&s.b, format+"\n", args...) }

func (s *script) comment(text string) {
	s.line("")
	for line := range strings.SplitSeq(text, "\n") {
		s.line("# %s", line)
	}
}

// quote is a word for sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (s *script) head() {
	s.line("#!/bin/bash")
	s.line("# Makes by hand what cri-box made as container %s of pod %s: with unshare, mount, ip,", s.Container.Name, s.Pod.Name)
	s.line("# nft, capsh and writes to control groups. Run it as root; the first process is its")
	s.line("# child and it ends with it. The pod's addresses must be free: remove the pod first.")
	s.line("# What a shell cannot do is load the seccomp filter, and pivot_root(2) in the end,")
	s.line("# since capsh has to be found until then: this container is in a chroot(2).")
	s.line("#")
	s.line("#   NAME=by-hand WORK=/tmp/by-hand bash this-script")
	s.line("set -eu")
	s.line("name=${NAME:-by-hand}")
	s.line("work=${WORK:-$(mktemp -d)}")
	s.line("mkdir -p \"$work\"/{root,upper,work,files}")
}

// ration makes the control groups and writes the limits.
func (s *script) ration() {
	s.comment("The ration. A control group is a directory; a limit is a number in one of its files.\nWhat this shell joins, its children are born into.")
	files := s.Container.Ration
	for _, dir := range slices.Sorted(maps.Keys(files)) {
		group := "/sys/fs/cgroup/" + dir
		s.line("mkdir -p %s/\"$name\"", group)
		for _, file := range slices.Sorted(maps.Keys(files[dir])) {
			s.line("echo %s > %s/\"$name\"/%s", quote(files[dir][file]), group, file)
		}
		s.line("echo $$ > %s/\"$name\"/cgroup.procs", group)
	}
}

// cable makes the network namespace and the veth into it.
func (s *script) cable() {
	s.comment("The pod's network: a namespace with a cable to the node. There is no bridge: the node\nroutes to each pod by its address, and the pod's gateway is an address that nobody has;\nboth ends know the other's MAC, so that nobody has to ask for it.")
	s.line("ip netns add \"$name\"")
	eth := s.eth0()
	s.line("ip link add cbhand type veth peer name eth0 netns \"$name\" address %s", eth.MAC)
	s.line("ip link set cbhand address ee:ee:ee:ee:ee:ee mtu %d up", eth.MTU)
	s.line("ip -n \"$name\" link set lo up")
	s.line("ip -n \"$name\" link set eth0 mtu %d up", eth.MTU)
	for _, address := range eth.Addresses {
		ip, bits, _ := strings.Cut(address, "/")
		gateway, family := "169.254.1.1", "-4"
		if strings.Contains(ip, ":") {
			if bits != "128" { // the kernel makes the link-local one
				continue
			}
			gateway, family = "fe80::1", "-6"
			s.line("ip -n \"$name\" addr add %s dev eth0 nodad", address)
		} else {
			s.line("ip -n \"$name\" addr add %s dev eth0", address)
		}
		s.line("ip -n \"$name\" neigh replace %s lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent", gateway)
		s.line("ip -n \"$name\" %s route add default via %s dev eth0 onlink", family, gateway)
		s.line("ip %s route add %s dev cbhand", family, address)
		s.line("ip neigh replace %s lladdr %s dev cbhand nud permanent", ip, eth.MAC)
	}
	s.line("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.cbhand.route_localnet=1")
	s.firewall(eth)
}

func (s *script) eth0() Link {
	for _, l := range s.Pod.Links {
		if l.Name == "eth0" {
			return l
		}
	}
	return Link{}
}

func (s *script) firewall(eth Link) {
	s.comment("One table leads published ports to the pod and hides its address from those outside.")
	s.line("nft -f - <<NFT")
	s.line("table inet $name {")
	ip := ""
	if len(eth.Addresses) > 0 {
		ip, _, _ = strings.Cut(eth.Addresses[0], "/")
	}
	for _, hook := range []string{"prerouting priority dstnat", "output priority -100"} {
		s.line("	chain %s {", strings.Fields(hook)[0])
		s.line("		type nat hook %s;", hook)
		for _, p := range s.Pod.Published {
			s.line("		fib daddr type local %s dport %d dnat ip to %s:%d", p.Protocol, p.Host, ip, p.Pod)
		}
		s.line("	}")
	}
	s.line("	chain postrouting {")
	s.line("		type nat hook postrouting priority srcnat;")
	s.line("		iifname \"cbhand\" oifname != \"cbhand\" masquerade")
	s.line("		oifname \"cbhand\" ip saddr 127.0.0.0/8 masquerade")
	s.line("	}")
	s.line("}")
	s.line("NFT")
}

// outside writes the files that the runtime provides and starts the child.
func (s *script) outside() {
	if len(s.Files) > 0 {
		s.comment("Files that the runtime writes for the pod.")
	}
	for n, target := range slices.Sorted(maps.Keys(s.Files)) {
		s.line("cat > \"$work/files/%d\" <<'FILE'\n%s\nFILE", n, strings.TrimSuffix(s.Files[target], "\n"))
	}
	enter := ""
	if s.Pod.NetNS != "" {
		enter = "nsenter --net=/run/netns/\"$name\" "
	}
	flags := []string{"--ipc", "--uts", "--mount", "--cgroup"}
	if s.Container.Own["pid"] != "" {
		flags = append(flags, "--pid", "--fork", "--kill-child")
	}
	s.comment("The namespaces. unshare(1) makes them and runs the rest in them; what is mounted there\nreaches nobody else (--propagation private). A process cannot change its own PID\nnamespace, only that of its children: hence --fork.")
	s.line("export work name")
	s.line("exec %sunshare %s --propagation private /bin/bash -eu -s <<'INSIDE'", enter, strings.Join(flags, " "))
}

// inside is what the child does until it becomes the container's program.
func (s *script) inside() {
	s.line("cd /")
	if h := s.Spec.Hostname; h != "" {
		s.line("hostname %s", quote(h))
	}
	s.comment("The root file system: the image's layers, and a writable directory on top.")
	s.line("root=$work/root")
	s.line("mount -t overlay -o lowerdir=%s,upperdir=\"$work/upper\",workdir=\"$work/work\" overlay \"$root\"", quote(strings.Join(s.Lowers, ":")))
	s.comment("What is mounted on it. A line of flags after a bind mount sets the mount's own.")
	for _, m := range s.Container.Mounts { // by their places
		if m.Target != "/" {
			s.mount(m)
		}
	}
	s.program()
	s.line("INSIDE")
}

// mount writes the lines that make one mount of the container's.
func (s *script) mount(m Mount) {
	at := "\"$root\"" + quote(m.Target)
	spec := s.specMount(m.Target)
	switch {
	case slices.Contains(s.Spec.Linux.ReadonlyPaths, m.Target):
		s.line("[ ! -e %s ] || { mount --rbind %s %s; mount -o remount,bind,%s %s; }", at, at, at, m.Options, at)
	case slices.Contains(s.Spec.Linux.MaskedPaths, m.Target):
		s.line("[ ! -d %s ] || mount -t tmpfs -o %s tmpfs %s", at, m.Options, at)
		s.line("[ ! -f %s ] || { mount --bind \"$root\"/dev/null %s; mount -o remount,bind,%s %s; }", at, at, m.Options, at)
	case m.Target == "/dev/shm":
		s.line("mkdir -p %s; mount -t tmpfs -o %s,mode=1777,size=64m shm %s", at, m.Options, at)
	case strings.HasPrefix(m.Type, "cgroup"):
		s.line("mkdir -p %s; mount -t %s -o %s cgroup %s", at, m.Type, m.Options+cgroupOption(m), at)
	case m.Target == "/sys/fs/cgroup": // writable until what is in it is mounted
		s.line("mount -t tmpfs -o %s,mode=755 tmpfs %s", strings.Replace(m.Options, "ro", "rw", 1), at)
	case spec != nil && spec.Type == "bind":
		s.bind(m, spec.Source, at)
	case spec != nil:
		s.line("mkdir -p %s; mount -t %s -o %s %s %s", at, m.Type, m.Options+data(spec), m.Type, at)
		if m.Target == "/dev" {
			s.devices()
		}
	}
}

func (s *script) specMount(target string) *specs.Mount {
	for i := range s.Spec.Mounts {
		if s.Spec.Mounts[i].Destination == target {
			return &s.Spec.Mounts[i]
		}
	}
	return nil
}

func (s *script) bind(m Mount, source, at string) {
	for n, target := range slices.Sorted(maps.Keys(s.Files)) {
		if target == m.Target {
			source = ""
			s.line("from=$work/files/%d", n)
		}
	}
	if source != "" {
		s.line("from=%s", quote(source))
	}
	s.line("if [ -d \"$from\" ]; then mkdir -p %s; else mkdir -p \"$(dirname %s)\"; touch %s; fi", at, at, at)
	s.line("mount --rbind \"$from\" %s; mount -o remount,bind,%s %s", at, m.Options, at)
}

// cgroupOption is what a mount of version 1 wants: its controller, or its name.
func cgroupOption(m Mount) string {
	controller := m.Target[strings.LastIndexByte(m.Target, '/')+1:]
	switch {
	case m.Type == "cgroup2":
		return ""
	case controller == "systemd":
		return ",none,name=systemd"
	}
	return "," + controller
}

// data are a mount's options for its file system.
func data(m *specs.Mount) (text string) {
	for _, o := range m.Options {
		if strings.Contains(o, "=") || o == "newinstance" {
			text += "," + o
		}
	}
	return text
}

func (s *script) devices() {
	s.line("for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do")
	s.line("	set -- $node; mknod -m 666 \"$root/dev/$1\" c \"$2\" \"$3\"")
	s.line("done")
	s.line("ln -s /proc/self/fd \"$root/dev/fd\"; ln -s /proc/self/fd/0 \"$root/dev/stdin\"; ln -s /proc/self/fd/1 \"$root/dev/stdout\"")
	s.line("ln -s /proc/self/fd/2 \"$root/dev/stderr\"; ln -s pts/ptmx \"$root/dev/ptmx\"")
}

// program gives up rights and becomes the container's program.
func (s *script) program() {
	if slices.ContainsFunc(s.Container.Mounts, func(m Mount) bool { return m.Target == "/sys/fs/cgroup" && m.Type == "tmpfs" }) {
		s.line("mount -o remount,bind,ro,nosuid,nodev,noexec,relatime \"$root\"/sys/fs/cgroup")
	}
	p := s.Spec.Process
	s.comment("Rights: capabilities that are dropped from the bounding set come back in no way, and\nwhoever becomes another user than root loses those that it has.")
	var drop []string
	for _, c := range s.Container.Dropped {
		drop = append(drop, strings.ToLower(c))
	}
	command := []string{"capsh", "--noamb", "--inh="}
	if len(drop) > 0 {
		command = append(command, "--drop="+strings.Join(drop, ","))
	}
	command = append(command, "--chroot=\"$root\"", fmt.Sprintf("--gid=%d", p.User.GID), "--groups="+numbers(p.User.AdditionalGids), fmt.Sprintf("--uid=%d", p.User.UID))
	if len(p.Args) == 0 {
		return
	}
	s.line("cd \"$root\"; umask 0022")
	var env []string
	for _, v := range p.Env {
		if name, _, _ := strings.Cut(v, "="); slices.Contains(known, name) {
			env = append(env, quote(v))
		} else {
			s.line("# It has also a variable %s.", name)
		}
	}
	command = append(command, "--shell=\"$program\"", "--")
	for _, arg := range p.Args[1:] {
		command = append(command, quote(arg))
	}
	s.line("program=%s", quote(p.Args[0]))
	s.line("case $program in /*) ;; *)")
	s.line("	for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do")
	s.line("		[ ! -x \"$root$dir/$program\" ] || { program=$dir/$program; break; }")
	s.line("	done ;;")
	s.line("esac")
	s.line("exec env -i %s \"$(command -v capsh)\" %s", strings.Join(env, " "), strings.Join(command[1:], " "))
}

func numbers(list []uint32) string {
	if len(list) == 0 {
		return "0"
	}
	var texts []string
	for _, n := range list {
		texts = append(texts, fmt.Sprint(n))
	}
	return strings.Join(texts, ",")
}
