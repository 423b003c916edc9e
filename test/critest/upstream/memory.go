package upstream

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// segmentSize is that of the shared memory segments that upstream makes in the
// node's IPC namespace and never removes.
const segmentSize = 1048576

// segments lists the ids of such segments that nobody has attached.
func segments(t testing.TB) map[int]bool {
	t.Helper()
	text, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]bool{}
	for line := range strings.Lines(string(text)) {
		var key, id, perms, size, cpid, lpid, attached int
		n, _ := fmt.Sscan(line, &key, &id, &perms, &size, &cpid, &lpid, &attached)
		if n == 7 && size == segmentSize && attached == 0 {
			found[id] = true
		}
	}
	return found
}

// removeSegments removes those that came since before.
func removeSegments(t testing.TB, before map[int]bool) {
	t.Helper()
	for id := range segments(t) {
		if before[id] {
			continue
		}
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			t.Errorf("cannot remove shared memory segment %d: %v", id, err)
		}
	}
}
