package mount

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestDevptsGroups: the kubelet gives pods groups over the whole range of 32 bits.
func TestDevptsGroups(t *testing.T) {
	for _, gid := range []int{5, 65541, 1<<31 - 1, 1 << 31, 4050976773} {
		f, err := Devpts(gid, "")
		if err != nil {
			t.Errorf("group %d: %v", gid, err)
			continue
		}
		defer f.Close()
		master, slave, err := OpenPTY(f)
		if err != nil {
			t.Fatal(err)
		}
		defer master.Close()
		defer slave.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(slave.Fd()), &st); err != nil || int(st.Gid) != gid {
			t.Errorf("group %d: the terminal has %d, %v", gid, st.Gid, err)
		}
	}
}
