package spec

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestIDs: each range to its own place, ends included, and nothing beyond them.
func TestIDs(t *testing.T) {
	ids := IDs{
		UIDs: []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 300000, Size: 10}, {ContainerID: 0, HostID: 200000, Size: 1}},
		GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4294967200, Size: 94}},
	}
	for id, want := range map[uint32]int64{0: 200000, 1: -1, 999: -1, 1000: 300000, 1009: 300009, 1010: -1, maxID: -1} {
		if got, ok := ids.UID(id); ok != (want >= 0) || ok && int64(got) != want {
			t.Errorf("user %d is %d, %v on the host; want %d", id, got, ok, want)
		}
	}
	if got, ok := ids.GID(93); got != 4294967293 || !ok {
		t.Errorf("the last group is %d, %v", got, ok)
	}
	if uid, gid := ids.Root(); uid != 200000 || gid != 4294967200 {
		t.Errorf("root is %d:%d", uid, gid)
	}
	var none IDs
	if got, ok := none.UID(77); got != 77 || !ok || !none.IsZero() {
		t.Errorf("without a user namespace user 77 is %d, %v", got, ok)
	}
}
