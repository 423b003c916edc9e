package keeper

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestListOfWhatEnds: what has been released while the list is told is not told any
// more: its descriptors are closed, and their numbers may be others' by now.
func TestListOfWhatEnds(t *testing.T) {
	const items = 2000 // more than a socket takes
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	k := &keeper{items: map[string]*held{}, strays: map[*waiter]bool{}, slices: map[uint64]uint64{}, peer: pair[0]}
	for n := range items {
		id := fmt.Sprint(n)
		k.items[id] = &held{Item: Item{ID: id, Kind: KindExec}, fds: map[string]int{}}
	}
	listed := make(chan struct{})
	go func() { k.list(pair[0], &message{}); close(listed) }()
	for full := false; !full; time.Sleep(time.Millisecond) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pair[0]), Events: unix.POLLOUT}}, 0)
		full = err == nil && n == 0
	}
	for n := range items {
		k.release(fmt.Sprint(n))
	}
	c, err := newConn(pair[1], maxMessage, maxRights)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.file.SetReadDeadline(time.Now().Add(20 * time.Second))
	told := 0
	for {
		m, _, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Item == nil {
			break
		}
		told++
	}
	<-listed
	unix.Close(pair[0])
	if told == items {
		t.Errorf("all of %d were told, of which most had been released", items)
	}
}
