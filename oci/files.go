package oci

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// How much of /proc one look at a container's open files reads: a container may
// open millions.
const (
	maxFileProcesses = 64
	maxFileLinks     = 4096
)

// OpenFiles are the open files of a container's processes. Of very many only the
// first are looked at.
type OpenFiles struct {
	Files, Sockets uint64
	// Limit is the soft RLIMIT_NOFILE of the first process.
	Limit uint64
}

// OpenFiles counts those of the processes in a group. Processes that end
// meanwhile are left out.
func (r *Runtime) OpenFiles(id, path string) (OpenFiles, error) {
	pids, err := r.Members(id, path, maxFileProcesses)
	if err != nil {
		return OpenFiles{}, err
	}
	var o OpenFiles
	links := maxFileLinks
	for i, pid := range pids {
		if i == 0 {
			var limit unix.Rlimit
			if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) == nil {
				o.Limit = limit.Cur
			}
		}
		o.add(pid, &links)
	}
	return o, nil
}

// add counts one process's, reading at most *links of them.
func (o *OpenFiles) add(pid int, links *int) {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(max(*links, 1))
	if err != nil {
		return
	}
	*links -= len(names)
	// Since Linux 6.2 the directory's size is the number of descriptors.
	count := uint64(len(names))
	if info, err := dir.Stat(); err == nil && info.Size() > 0 {
		count = uint64(info.Size())
	}
	o.Files += count
	var target [64]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(dir.Fd()), name, target[:])
		if err == nil && strings.HasPrefix(string(target[:n]), "socket:") {
			o.Sockets++
		}
	}
}
