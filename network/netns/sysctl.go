package netns

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteSysctls writes net.* sysctls inside the network namespace fd: those that
// SplitSysctls said have to wait for the pod's interface.
func WriteSysctls(fd int, sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	for key := range sysctls {
		if err := checkSysctl(key, Options{}); err != nil {
			return err
		}
	}
	return Do(fd, func() error { return writeSysctls(sysctls) })
}

// SplitSysctls separates sysctls that exist as soon as the namespaces do from
// those of an interface that Attach makes later, such as net.ipv4.conf.eth0.*.
func SplitSysctls(sysctls map[string]string) (now, later map[string]string) {
	now, later = map[string]string{}, map[string]string{}
	for key, value := range sysctls {
		if ofInterface(key) {
			later[key] = value
		} else {
			now[key] = value
		}
	}
	return now, later
}

// ofInterface says whether the sysctl belongs to an interface other than lo:
// net/FAMILY/conf/NAME/… and net/FAMILY/neigh/NAME/….
func ofInterface(key string) bool {
	part := strings.Split(sysctlPath(key), "/")
	if len(part) < 5 || part[0] != "net" || (part[2] != "conf" && part[2] != "neigh") {
		return false
	}
	return part[3] != "all" && part[3] != "default" && part[3] != "lo"
}

// sysctlPath turns a key into its path below /proc/sys. As sysctl(8) has it, the
// first separator decides: with a dot first, dots separate and a slash stands for
// a dot (net.ipv4.conf.eth0/100.forwarding); with a slash first it is a path.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// checkSysctl refuses a key that would leave /proc/sys or reach a namespace that
// is not the pod's own: it would change the host.
func checkSysctl(key string, opts Options) error {
	for _, part := range strings.Split(sysctlPath(key), "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return fmt.Errorf("cannot set sysctl %q: not a sysctl name, write it like net.ipv4.ip_forward", key)
		}
	}
	switch ns := namespaceOf(sysctlPath(key)); {
	case ns == "":
		return fmt.Errorf("cannot set sysctl %q: it has no namespace, it would change the whole host; "+
			"net.*, fs.mqueue.*, kernel.shm*, kernel.msg*, kernel.sem and kernel.domainname can be set", key)
	case ns == "ipc" && !opts.IPC, ns == "uts" && !opts.UTS:
		return fmt.Errorf("cannot set sysctl %q: the pod has no %s namespace of its own", key, ns)
	}
	return nil
}

// namespaceOf says in which namespace the kernel keeps a sysctl.
func namespaceOf(path string) string {
	switch path {
	case "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced",
		"kernel/shm_next_id", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id",
		"kernel/auto_msgmni", "kernel/sem_next_id":
		return "ipc"
	case "kernel/domainname":
		return "uts"
	}
	switch {
	case strings.HasPrefix(path, "net/"):
		return "net"
	case strings.HasPrefix(path, "fs/mqueue/"):
		return "ipc"
	}
	return ""
}

// writeSysctls writes from the calling thread: the kernel looks net.* up in the
// network namespace and the rest in the IPC namespace of whoever opens the file.
func writeSysctls(values map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := writeSysctl(key, values[key]); err != nil {
			return fmt.Errorf("cannot set sysctl %s to %q: %w", key, values[key], err)
		}
	}
	return nil
}

func writeSysctl(key, value string) error {
	fd, err := sysctls.open("sys/" + sysctlPath(key))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// One write: each write is a whole value to the kernel.
	_, err = unix.Write(fd, []byte(value))
	return err
}
