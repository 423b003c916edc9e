package oci

import (
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// leftGroups are groups of commands that had processes in them when the command
// ended, by container.
type leftGroups struct {
	mu    sync.Mutex
	names map[string][]string
}

func (l *leftGroups) add(containerID, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names == nil {
		l.names = map[string][]string{}
	}
	l.names[containerID] = append(l.names[containerID], name)
}

// sweep removes those below the container's group that are empty by now.
func (l *leftGroups) sweep(containerID string, dir *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := slices.DeleteFunc(l.names[containerID], func(name string) bool {
		return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) != unix.EBUSY
	})
	if len(left) == 0 {
		delete(l.names, containerID)
		return
	}
	l.names[containerID] = left
}

// forget drops what is known of a container; its group is removed as a whole.
func (l *leftGroups) forget(containerID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names, containerID)
}
