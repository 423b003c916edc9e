package soak_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/test/harness"
	"golang.org/x/sys/unix"
)

// figures are what must not grow, while no pod is there.
type figures struct {
	goroutines, processes int
	descriptors           int   // but for those that come with each spawner
	memory                int64 // bytes: proportional set size of serve, keeper and spawners
	keeper                int64 // bytes: that without serve
	heap                  int64 // bytes: what lives in serve's heap
	disk, files           int64 // bytes and names below root and state, without logs
}

func (f figures) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d processes, %.1f MiB of memory (%.1f without serve, %.1f live in serve's heap), %.1f MiB on disk in %d files",
		f.goroutines, f.descriptors, f.processes, float64(f.memory)/(1<<20), float64(f.keeper)/(1<<20), float64(f.heap)/(1<<20), float64(f.disk)/(1<<20), f.files)
}

// spawnerDescriptors are a spawner's own and the keeper's for it: that there is one more
// is counted once, among the processes.
const spawnerDescriptors = 7

// What may be more at the end than at the beginning: idle connections, and garbage. A
// busy daemon collects late and gives memory back when it is idle; what lives in its
// heap must not grow.
const (
	moreGoroutines  = 10
	moreDescriptors = 10
	moreProcesses   = 1
	moreMemory      = 24 << 20
	moreKeeper      = 6 << 20
	moreHeap        = 2 << 20
	moreDisk        = 1 << 20
)

// beyond says what grew.
func (f figures) beyond(base figures) (list []string) {
	for _, x := range []struct {
		name            string
		now, then, more int64
	}{
		{"goroutines", int64(f.goroutines), int64(base.goroutines), moreGoroutines},
		{"descriptors", int64(f.descriptors), int64(base.descriptors), moreDescriptors},
		{"processes", int64(f.processes), int64(base.processes), moreProcesses},
		{"bytes of memory", f.memory, base.memory, moreMemory},
		{"bytes of memory without serve", f.keeper, base.keeper, moreKeeper},
		{"bytes in serve's heap", f.heap, base.heap, moreHeap},
		{"bytes on disk", f.disk, base.disk, moreDisk},
		{"files", f.files, base.files, 2},
	} {
		if x.now > x.then+x.more {
			list = append(list, fmt.Sprintf("%s: %d, were %d", x.name, x.now, x.then))
		}
	}
	return list
}

// atRest is how many processes stay: serve, the keeper, and two idle spawners. Those of
// a burst end one by one when it is over (oci/keeper).
const atRest = 4

// measure takes the figures when they have settled: when no process is about to end, and
// two looks give the same but for memory.
func (s *soak) measure() (f figures) {
	s.T.Helper()
	s.Wait("the keeper", func() bool { return s.Keeper() != 0 })
	var before figures
	s.Wait(fmt.Sprintf("the figures to settle, with at most %d processes", atRest), func() bool {
		f = s.look()
		same := f.processes <= atRest && f.goroutines == before.goroutines && f.descriptors == before.descriptors && f.processes == before.processes
		before = f
		return same
	})
	return f
}

func (s *soak) look() (f figures) {
	s.T.Helper()
	keeper := s.Keeper()
	ours := append([]int{s.PID(), keeper}, harness.Children(keeper)...)
	f.processes = len(ours)
	for _, pid := range ours {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		f.descriptors += len(fds)
		size := pss(pid)
		f.memory += size
		if pid != s.PID() {
			f.keeper += size
		}
	}
	f.descriptors -= spawnerDescriptors * (f.processes - 2)
	f.goroutines, f.heap = s.goroutines(), s.heap()
	for _, dir := range []string{s.State, s.Root} {
		filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || strings.HasSuffix(name, ".log") {
				return nil
			}
			var st unix.Stat_t
			if unix.Lstat(name, &st) == nil {
				f.files++
				f.disk += st.Blocks * 512
			}
			return nil
		})
	}
	return f
}

func pss(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// goroutines are serve's.
func (s *soak) goroutines() (n int) {
	s.T.Helper()
	text := s.profile("goroutine?debug=1")
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &n); err != nil {
		s.T.Fatalf("cannot read the number of goroutines: %v", err)
	}
	return n
}

// heap is what lives in serve's heap after a collection.
func (s *soak) heap() int64 {
	s.T.Helper()
	for line := range strings.Lines(s.profile("heap?gc=1&debug=1")) {
		if size, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
			return n
		}
	}
	s.T.Fatal("cannot read the size of the heap")
	return 0
}

// profile is one of serve's, as text.
func (s *soak) profile(name string) string {
	s.T.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.State, "admin.sock"))
	}}}
	resp, err := client.Get("http://daemon/debug/pprof/" + name)
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	return string(text)
}
