package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// leftInCustody finds what serve and keeper still hold of pods and containers
// while both run: namespaces other than their own, files of containers, logs,
// and cgroups.
func (i *Instance) leftInCustody() []Leftover {
	holders := map[string]int{"serve": i.PID()}
	if keeper := i.Keeper(); keeper != 0 {
		holders["keeper"] = keeper
	}
	var found []Leftover
	for name, pid := range holders {
		var links []string
		for _, link := range descriptors(pid) {
			if i.ofAPod(pid, link) {
				links = append(links, link)
			}
		}
		if name == "serve" {
			links = beyondAhead(links)
		}
		for _, link := range links {
			found = append(found, Leftover{Kind: "descriptor", Name: fmt.Sprintf("of %s: %s", name, link)})
		}
	}
	return found
}

// Settle waits, where there are no pods, until serve and keeper hold nothing of those
// that were, and serve has ready again what it keeps for those to come.
func (i *Instance) Settle() {
	i.T.Helper()
	i.Wait("serve and keeper to hold nothing of pods", func() bool { return len(i.leftInCustody()) == 0 })
}

// Ahead is for how many pods serve keeps network, IPC and UTS namespaces ready, each
// with a link.
const Ahead = 4

// beyondAhead takes those namespaces out of the descriptors of serve, if they are
// exactly as many: one more is a leak, one less is still being made.
func beyondAhead(links []string) []string {
	var rest []string
	count := map[string]int{}
	for _, link := range links {
		kind, _, _ := strings.Cut(link, ":[")
		switch {
		case kind == "net" || kind == "ipc" || kind == "uts":
			count[kind]++
		case kind == "mnt" && count[kind] == 0:
			count[kind]++ // the empty one of older kernels (mount.Hold)
		default:
			rest = append(rest, link)
		}
	}
	if count["net"] == Ahead && count["ipc"] == Ahead && count["uts"] == Ahead {
		return rest
	}
	return links
}

// descriptors lists what a process's descriptors refer to.
func descriptors(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	var links []string
	for _, name := range dirNames(dir) {
		if link, err := os.Readlink(filepath.Join(dir, name)); err == nil {
			links = append(links, link)
		}
	}
	return links
}

// ofAPod says whether a descriptor belongs to a pod or container.
func (i *Instance) ofAPod(pid int, link string) bool {
	link = strings.TrimSuffix(link, " (deleted)")
	if kind, _, ok := strings.Cut(link, ":["); ok {
		switch kind {
		case "net", "ipc", "uts", "mnt", "pid", "user", "cgroup":
			return link != Namespace(pid, kind)
		}
		return false
	}
	for _, dir := range []string{
		filepath.Join(i.State, "containers"), filepath.Join(i.State, "pods"),
		filepath.Join(i.Root, "containers"), filepath.Join(i.Root, "pods"), filepath.Join(i.Dir, "logs"),
	} {
		if strings.HasPrefix(link, dir+"/") {
			return true
		}
	}
	return strings.HasPrefix(link, "/sys/fs/cgroup/") && i.ours(link)
}
