package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hunter stops every process that appears beside it before it has executed its
// program, and notes what it finds there that is not its own.
type hunter struct {
	marker []byte          // bytes that belong to others
	caps   uint64          // its own bounding set
	pages  map[string]bool // shared pages of the processes before, by inode
	caught int
	found  map[string]bool
}

// hunt MARKER hunts until SIGTERM, then says how many it caught half-made and
// what of others it found in them, each on a line.
func hunt(args []string) int {
	runtime.LockOSThread() // a tracer is a thread
	h := &hunter{marker: []byte(args[0]), pages: map[string]bool{}, found: map[string]bool{}}
	h.caps = statusHex("/proc/self", "CapBnd")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	say("ready")
	known := map[int]bool{os.Getpid(): true, 1: true}
	for {
		select {
		case <-end:
			h.report()
			return 0
		default:
		}
		present := map[int]bool{}
		for _, pid := range pids() {
			present[pid] = true
			if !known[pid] {
				h.look(pid)
			}
		}
		present[os.Getpid()], present[1] = true, true
		known = present
	}
}

func (h *hunter) report() {
	for f := range h.found {
		say("found %s", f)
	}
	say("caught %d", h.caught)
}

// pids lists /proc without sorting or allocating more than it must: it races.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		fatal("%v", err)
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// look stops pid, examines it if it is half-made, and lets it go.
func (h *hunter) look(pid int) {
	// Seized and not attached to: that would leave a SIGSTOP behind if it executes
	// its program meanwhile.
	if unix.PtraceSeize(pid) != nil {
		return
	}
	defer unix.PtraceDetach(pid)
	if unix.PtraceInterrupt(pid) != nil {
		return
	}
	var st unix.WaitStatus
	if _, err := unix.Wait4(pid, &st, unix.WALL, nil); err != nil || !st.Stopped() {
		return
	}
	dir := fmt.Sprintf("/proc/%d", pid)
	exe, err := os.Readlink(dir + "/exe")
	if err != nil || strings.HasPrefix(exe, "/bin/") {
		return // it has executed its program, or is gone
	}
	h.caught++
	h.files(pid, dir)
	h.rights(dir)
	h.memory(dir)
	for _, name := range []string{"root", "cwd"} {
		if target, _ := os.Readlink(dir + "/" + name); target != "/" {
			h.found[name+" "+target] = true
		}
	}
	// Its executable is the runtime's own: it can be read, as any CVE-2019-5736
	// begins, and must not be written.
	if f, err := os.OpenFile(dir+"/exe", os.O_WRONLY, 0); err == nil {
		f.Close()
		h.found["a writable executable "+exe] = true
	}
}

// files wants 0, 1 and 2, and these to be pipes or /dev/null.
func (h *hunter) files(pid int, dir string) {
	list, err := os.ReadDir(dir + "/fd")
	if err != nil {
		h.found["unreadable fd"] = true
		return
	}
	for _, e := range list {
		target, _ := os.Readlink(filepath.Join(dir, "fd", e.Name()))
		if !slices.Contains([]string{"0", "1", "2"}, e.Name()) || target != "/dev/null" && !strings.HasPrefix(target, "pipe:") && !strings.Contains(target, "/std") {
			h.found["descriptor "+e.Name()+" "+target] = true
		}
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(pidfd)
	for n := 3; n < 256; n++ {
		if fd, err := unix.PidfdGetfd(pidfd, n, 0); err == nil {
			unix.Close(fd)
			h.found["a stolen descriptor"] = true
		}
	}
}

// rights wants no capability that the hunter has not, and the filter loaded.
func (h *hunter) rights(dir string) {
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if more := statusHex(dir, set) &^ h.caps; more != 0 {
			h.found[fmt.Sprintf("%s %#x more", set, more)] = true
		}
	}
	if own, its := statusHex("/proc/self", "Seccomp"), statusHex(dir, "Seccomp"); own != its {
		h.found[fmt.Sprintf("seccomp mode %d", its)] = true
	}
}

// memory wants none with the marker, and none that is shared but an anonymous
// page that no process before had.
func (h *hunter) memory(dir string) {
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		h.found["unreadable maps"] = true
		return
	}
	mem, err := os.Open(dir + "/mem")
	if err != nil {
		h.found["unreadable memory"] = true
		return
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		from, to, _ := strings.Cut(f[0], "-")
		begin, _ := strconv.ParseUint(from, 16, 64)
		end, _ := strconv.ParseUint(to, 16, 64)
		if strings.HasSuffix(f[1], "s") && strings.Contains(f[1], "w") {
			if f[5] != "/dev/zero" || end-begin != 4096 || h.pages[f[4]] {
				h.found["shared memory "+strings.Join(f, " ")] = true
			}
			h.pages[f[4]] = true
		}
		if !strings.HasPrefix(f[1], "r") || end-begin > 64<<20 {
			continue
		}
		buf := make([]byte, end-begin)
		n, _ := mem.ReadAt(buf, int64(begin))
		if bytes.Contains(buf[:n], h.marker) {
			h.found["the marker in "+strings.Join(f[1:], " ")] = true
		}
	}
}

// statusHex reads a hexadecimal field of a status file; 0 if it is not there.
func statusHex(dir, field string) uint64 {
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\n"+field+":")
	value, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
	return n
}
