package harness

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// netnsDir is where network namespaces are pinned by name.
const netnsDir = "/run/netns"

// A Leftover is something of an instance that should be gone.
type Leftover struct {
	Kind string // "process", "mount", "netns", "cgroup", "file", "link", …
	Name string
	pid  int // of a process
}

// String is the line that a failing test prints.
func (l Leftover) String() string {
	if l.Kind == "process" {
		return fmt.Sprintf("process %d: %s", l.pid, l.Name)
	}
	return l.Kind + " " + l.Name
}

// settleTime is how long what goes away by itself may take: the kernel removes the
// host's end of a pod's link some time after the namespace (DESIGN 6).
var settleTime = Long(5 * time.Second)

// afterAll repeats a look for leftovers until there are none or everything had
// its time to go.
func afterAll(look func() []Leftover) (left []Leftover) {
	within(settleTime, func() bool {
		left = look()
		return len(left) == 0
	})
	return left
}

// leftovers looks for everything that carries the instance's name, lives in its
// directories, or belongs to a pod or container that the test made.
func (i *Instance) leftovers() []Leftover {
	var found []Leftover
	found = append(found, i.leftProcesses()...)
	found = append(found, i.leftMounts()...)
	found = append(found, i.leftPins()...)
	found = append(found, i.leftCgroups()...)
	found = append(found, i.leftFiles()...)
	found = append(found, i.leftInNode()...)
	return found
}

// ours says whether a text names the instance, its directory, or one of its ids.
func (i *Instance) ours(text string) bool {
	if strings.Contains(text, i.Name) || strings.Contains(text, i.Dir) {
		return true
	}
	return slices.ContainsFunc(i.ids, func(id string) bool { return strings.Contains(text, id) })
}

// leftProcesses finds serve, keeper and spawners by their network namespace and
// command line, containers by their cgroup and by what is mounted for them.
func (i *Instance) leftProcesses() []Leftover {
	node, err := i.Node.Inode()
	if err != nil {
		i.T.Errorf("cannot identify the node's namespace: %v", err)
	}
	here := Namespace(os.Getpid(), "mnt")
	var found []Leftover
	for _, p := range procs() {
		// A zombie below the machine's init is that one's to reap.
		if p.pid == os.Getpid() || p.state == "Z" && (p.ppid == os.Getpid() || p.ppid == 1) {
			continue
		}
		text := strings.Join(p.args, " ")
		foreign := Namespace(p.pid, "mnt") != here && i.mountedFor(p.pid)
		if Namespace(p.pid, "net") == node || i.ours(text) || i.ours(readProcFile(p.pid, "cgroup")) || foreign {
			found = append(found, Leftover{Kind: "process", Name: text, pid: p.pid})
		}
	}
	return found
}

// mountedFor says whether a process has something of the instance mounted at a place that
// is not the instance's. At its own place it is the host's mount, and in whoever copied the
// host's mount namespace at that moment.
func (i *Instance) mountedFor(pid int) bool {
	text := readProcFile(pid, "mountinfo")
	return i.ours(text) && slices.ContainsFunc(mounts(text), func(m hostMount) bool { return i.ours(m.line) && !i.ours(m.target) })
}

func (i *Instance) leftMounts() []Leftover {
	var found []Leftover
	for _, m := range hostMounts() {
		if i.ours(m.line) {
			found = append(found, Leftover{Kind: "mount", Name: m.target})
		}
	}
	return found
}

// A hostMount is one line of a mountinfo.
type hostMount struct{ line, target, fstype, options string }

func hostMounts() []hostMount { return mounts(readProcFile(os.Getpid(), "mountinfo")) }

func mounts(text string) []hostMount {
	var list []hostMount
	for _, line := range strings.Split(text, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if ok && len(l) > 5 && len(r) > 2 {
			list = append(list, hostMount{line, l[4], r[0], r[2]})
		}
	}
	return list
}

func (i *Instance) leftPins() []Leftover {
	var found []Leftover
	for _, name := range dirNames(netnsDir) {
		if strings.HasPrefix(name, i.Name+"-") || i.ours(name) {
			found = append(found, Leftover{Kind: "netns", Name: filepath.Join(netnsDir, name)})
		}
	}
	return found
}

func dirNames(dir string) []string {
	entries, _ := os.ReadDir(dir)
	names := make([]string, len(entries))
	for n, e := range entries {
		names[n] = e.Name()
	}
	return names
}

// leftCgroups looks through every hierarchy, deepest first, so that they can be
// removed in this order.
func (i *Instance) leftCgroups() []Leftover {
	var found []Leftover
	// The slice of all pods stays until somebody stops it: systemd would end what is below.
	base := i.Name + ".slice"
	for _, m := range hostMounts() {
		if m.fstype != "cgroup" && m.fstype != "cgroup2" {
			continue
		}
		filepath.WalkDir(m.target, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && name != m.target && d.Name() != base && i.ours(strings.TrimPrefix(name, m.target)) {
				found = append(found, Leftover{Kind: "cgroup", Name: name})
			}
			return nil
		})
	}
	slices.SortStableFunc(found, func(a, b Leftover) int {
		return strings.Count(b.Name, "/") - strings.Count(a.Name, "/")
	})
	return found
}

// leftSlices are the groups of pods that systemd made.
func (i *Instance) leftSlices() []Leftover {
	if !BySystemd() {
		return nil
	}
	return slices.DeleteFunc(i.leftCgroups(), func(l Leftover) bool { return path.Ext(l.Name) != ".slice" })
}

// stays lists, as path.Match patterns below the instance's directory, the files
// that an instance without pods keeps.
var stays = []string{
	"config.toml",
	"serve.log",
	"logs", "logs/*", "logs/*/*", // container logs are the kubelet's, which removes them
	"root",
	"root/containers", "root/pods", // empty: what is in them is of a container or pod
	"root/bin", "root/bin/keeper-*", // unpacked from the binary
	"root/network", "root/network/pod-cidr", "root/network/cni-served", // which network, until the node is made anew
	"root/network/cni", "root/network/cni/serving.*", "root/network/cni/attached", // empty: what is in it is of a pod
	"root/network/cni/cache", "root/network/cni/cache/results",
	"root/images.db", "root/incoming", "root/layers", "root/trash",
	"state",
	"state/containers", "state/pods",
	"state/ipam", "state/ipam/next", // which address comes next: a lease has the address as its name
	"state/keeper.log", "state/keeper.sock", "state/lock",
}

// layers are an image's: what is in them is not looked at.
const layers = "root/layers/sha256-*"

func (i *Instance) leftFiles() []Leftover {
	var found []Leftover
	filepath.WalkDir(i.Dir, func(name string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(i.Dir, name)
		if err != nil || relErr != nil || rel == "." {
			return nil
		}
		matches := func(pattern string) bool { ok, _ := path.Match(pattern, rel); return ok }
		if matches(layers) {
			return filepath.SkipDir
		}
		if !slices.ContainsFunc(stays, matches) {
			found = append(found, Leftover{Kind: "file", Name: rel})
		}
		return nil
	})
	return found
}

// A snapshot is what of the host a run of tests must leave as it was.
type snapshot map[string]bool

func hostSnapshot() snapshot {
	s := snapshot{}
	for _, m := range hostMounts() {
		// The first pin on a machine makes its directory a shared mount, which stays:
		// ip-netns(8) does the same.
		if m.target != netnsDir {
			s["mount "+m.target] = true
		}
		if m.fstype != "cgroup" && m.fstype != "cgroup2" {
			continue
		}
		filepath.WalkDir(m.target, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				s["cgroup "+name] = true
			}
			return nil
		})
	}
	for _, name := range dirNames(netnsDir) {
		s["netns "+name] = true
	}
	return s
}

// diff lists what is there later and was not before.
func (s snapshot) diff(later snapshot) []string {
	var list []string
	for line := range later {
		if !s[line] {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}
