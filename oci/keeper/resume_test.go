package keeper

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestResumeTellsEveryEnd: the end of a process whose last output an upgrade fell
// into is told, however soon it is reported.
func TestResumeTellsEveryEnd(t *testing.T) {
	const items = 500
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	state := &handover{Version: handoverVersion, Peer: pair[0]}
	for n := range items {
		fd, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		state.Items = append(state.Items, handedItem{Item: Item{ID: fmt.Sprint(n), Kind: KindContainer, Names: []string{FDPid}}, FDs: []int{fd}, Seen: &Exit{Code: 7}})
	}
	k := &keeper{items: map[string]*held{}, strays: map[*waiter]bool{}, slices: map[uint64]uint64{}, peer: -1}
	resumed := make(chan struct{})
	go func() { k.resume(state); close(resumed) }()
	told := map[string]bool{}
	c, err := newConn(pair[1], maxMessage, maxRights)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.file.SetReadDeadline(time.Now().Add(20 * time.Second))
	for end := time.Now().Add(20 * time.Second); len(told) < items && time.Now().Before(end); {
		m, _, err := c.receive()
		if err != nil {
			t.Errorf("%d of %d ends were told: %v", len(told), items, err)
			break
		}
		if m.Verb == verbExit && m.Item.Exit.Code == 7 {
			told[m.Item.ID] = true
		}
	}
	unix.Shutdown(pair[1], unix.SHUT_RDWR)
	<-resumed
	for _, h := range k.all() {
		h.close()
	}
	unix.Close(pair[1])
}
