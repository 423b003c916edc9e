package netns

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Names are looked up in one procfs for a while, and then in another.
func TestFreshProc(t *testing.T) {
	var p freshProc
	open := func() *os.File {
		t.Helper()
		fd, err := p.open("sys/net/ipv4/ip_unprivileged_port_start")
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		return p.root
	}
	first := open()
	for range procUses - 1 {
		if open() != first {
			t.Fatal("another procfs before the first was used up")
		}
	}
	second := open()
	if second == first {
		t.Errorf("still the same procfs after %d opens", procUses+1)
	}
	if _, err := first.Stat(); err == nil {
		t.Error("the first procfs is still held")
	}
	if _, err := p.open("sys/net/no/such"); err == nil {
		t.Error("what is not there was opened")
	}
	second.Close()
}
