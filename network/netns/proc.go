package netns

import (
	"os"
	"sync"

	"github.com/cri-box/cri-box/oci/mount"
	"golang.org/x/sys/unix"
)

// procUses is how many files are opened in one procfs before another is made.
const procUses = 64

// A freshProc is a procfs of our own, attached nowhere, for sysctls. Each network
// namespace has a tree of its own below /proc/sys/net, but all of them have the same
// names: in the kernel's cache of names those of a hundred pods are one chain, that
// every open walks from its beginning (proc_sys_compare in fs/proc/proc_sysctl.c),
// the host's own too. A new procfs has no such chain. The zero value has none yet.
type freshProc struct {
	mu   sync.Mutex
	root *os.File
	left int // opens
}

// sysctls is where pods' sysctls are opened.
var sysctls freshProc

// open opens a file below /proc for writing, in the calling thread's namespaces.
func (p *freshProc) open(path string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		if err := p.renew(); err != nil {
			return -1, err
		}
	}
	p.left--
	return unix.Openat(int(p.root.Fd()), path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
}

func (p *freshProc) renew() error {
	root, err := mount.Proc()
	if err != nil {
		return err
	}
	if p.root != nil {
		p.root.Close()
	}
	p.root, p.left = root, procUses
	return nil
}
