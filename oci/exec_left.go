package oci

import (
	"os"
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

// sweepAtOnce is how many groups a command looks at: a container may have left many.
const sweepAtOnce = 8

// sweep removes some of those below the container's group, if they are empty by now;
// the next sweep begins with others.
func (l *leftGroups) sweep(containerID string, dir *os.File) {
	for _, name := range l.take(containerID) {
		if unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) == unix.EBUSY {
			l.add(containerID, name)
		}
	}
}

// take takes those out that were looked at the longest ago.
func (l *leftGroups) take(containerID string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := l.names[containerID]
	if len(names) <= sweepAtOnce {
		delete(l.names, containerID)
		return names
	}
	l.names[containerID] = names[sweepAtOnce:]
	return names[:sweepAtOnce]
}

// forget drops what is known of a container; its group is removed as a whole.
func (l *leftGroups) forget(containerID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names, containerID)
}
